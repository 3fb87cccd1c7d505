"""What counts as an HTTP/1.1 request on the wire: strict framing of heads and bodies (RFC 9112). Bytes in, values out; no I/O.

`connection` feeds it whatever arrived and passes on only what it has approved: no later parser is asked a doubtful question.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from lru import LRU
from multidict import CIMultiDict, CIMultiDictProxy
from mypy_extensions import mypyc_attr

from edgecache.policy.authority import authority_of, is_authority, is_rooted
from edgecache.policy.connection import HOP_BY_HOP, hop_by_hop
from edgecache.policy.fields import freeze, without
from edgecache.policy.message import Headers, Request
from edgecache.policy.trailing import MAX_TRAILERS
from edgecache.serve.settings import ServeSettings

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/1\.([01])")
"""RFC 9112 section 3: single spaces, visible ASCII, no fragment."""
_FIELDS = re.compile(rb"(?:\r\n" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*)*")
"""RFC 9112 section 5: no space before the colon, no folding, no control characters (RFC 9110 section 5.5)."""
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_LOOSE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?![\n]|\Z)")
_ABSOLUTE = re.compile(r"([Hh][Tt][Tt][Pp][Ss]?)://([^/?#@]+)([/?].*)?")
_DIGITS = re.compile(r"[0-9]{1,18}")
_MAX_CHUNK_LINE = 512
_MAX_TRAILER_BYTES = 8 << 10
_MAX_LEADING_LINES = 4
_MAX_KNOWN_BYTES = 2 << 10
_SEEN: Final = 4096


class RequestFault(enum.StrEnum):
    """Why a request was refused before it had a meaning."""

    REQUEST_LINE = "bad-request-line"
    FIELD = "bad-field"
    LINE_END = "bare-line-end"
    HOST = "bad-host"
    CONTENT_LENGTH = "bad-content-length"
    TRANSFER_ENCODING = "bad-transfer-encoding"
    CHUNK = "bad-chunk"
    EXPECTATION = "unknown-expectation"
    TARGET_TOO_LONG = "target-too-long"
    HEAD_TOO_LARGE = "head-too-large"
    BODY_TOO_LARGE = "body-too-large"
    HEAD_TIMEOUT = "head-timeout"


STATUS = {
    RequestFault.REQUEST_LINE: 400,
    RequestFault.FIELD: 400,
    RequestFault.LINE_END: 400,
    RequestFault.HOST: 400,
    RequestFault.CONTENT_LENGTH: 400,
    RequestFault.TRANSFER_ENCODING: 400,
    RequestFault.CHUNK: 400,
    RequestFault.EXPECTATION: 417,
    RequestFault.TARGET_TOO_LONG: 414,
    RequestFault.HEAD_TOO_LARGE: 431,
    RequestFault.BODY_TOO_LARGE: 413,
    RequestFault.HEAD_TIMEOUT: 408,
}


class Violation(Exception):
    """The bytes are not a request we accept; the connection cannot go on."""

    def __init__(self, fault: RequestFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail

    @property
    def status(self) -> int:
        return STATUS[self.fault]


@mypyc_attr(acyclic=True)
@dataclass(slots=True, init=False, unsafe_hash=True)
class Head:
    """One accepted request head."""

    request: Final[Request]
    """Target in origin form, or `*`; authority in lower case without default port, empty for HTTP/1.0 without Host."""
    keep_alive: Final[bool]
    http10: Final[bool]
    content_length: Final[int]
    """0 where there is no body."""
    chunked: Final[bool]
    expect_continue: Final[bool]

    def __init__(  # noqa: PLR0917 - its fields
        self, request: Request, keep_alive: bool, http10: bool, content_length: int, chunked: bool, expect_continue: bool
    ) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self.http10 = http10
        self.content_length = content_length
        self.chunked = chunked
        self.expect_continue = expect_continue

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def has_body(self) -> bool:
        return self.chunked or self.content_length > 0


def find_head(data: bytes, start: int, settings: ServeSettings, looked: int = 0) -> tuple[int, int] | None:
    """Where the next head begins and where it ends, exclusive; None while it is incomplete.

    Empty lines before it are skipped (RFC 9112 section 2.2). Raises Violation as soon as what is there cannot become a head.
    `looked`: how many bytes were there at the last look, which are not searched again.
    """
    for _ in range(_MAX_LEADING_LINES):
        if not data.startswith(b"\r\n", start):
            break
        start += 2
    end = data.find(b"\r\n\r\n", max(start, looked - 3), start + settings.max_head_bytes)
    if end != -1:
        return start, end + 4
    waiting = len(data) - start
    line_end = data.find(b"\r\n", start)
    line_bytes = (line_end if line_end != -1 else len(data)) - start
    if line_bytes > settings.max_target_bytes + 64:
        raise Violation(RequestFault.TARGET_TOO_LONG, f"the request target may have {settings.max_target_bytes} bytes")
    if waiting >= settings.max_head_bytes:
        raise Violation(RequestFault.HEAD_TOO_LARGE, f"the request head may have {settings.max_head_bytes} bytes")
    if _LOOSE_LINE_END.search(data, max(start, looked - 1)):
        raise Violation(RequestFault.LINE_END, "lines end with CR LF")
    return None


class HeadReader:
    """Reads heads, and remembers short ones that came twice: clients say the same again and again. What a head states depends on
    nothing else.
    """

    def __init__(self, settings: ServeSettings, capacity: int = 4096, *, scheme: str = "http") -> None:
        self._settings = settings
        self.scheme = scheme
        """Of the connections whose heads these are; it becomes that of their requests."""
        self._known: LRU[bytes, Head] = LRU(capacity)
        self._seen = [0] * _SEEN
        """Hashes of heads that came once. Most never come again, and to keep all would push those out that do."""

    def read(self, head: bytes) -> Head:
        """As `parse_head`."""
        known = self._known.get(head)
        if known is not None:
            return known
        parsed = parse_head(head, self._settings, self.scheme)
        if len(head) <= _MAX_KNOWN_BYTES and not parsed.has_body:
            mark = hash(head)
            place = mark & (_SEEN - 1)
            if self._seen[place] == mark:
                self._known[head] = parsed
            else:
                self._seen[place] = mark
        return parsed


def parse_head(head: bytes, settings: ServeSettings, scheme: str = "http") -> Head:
    """The request that `head`, ending in an empty line, states. Raises Violation."""
    line = _REQUEST_LINE.match(head)
    if line is None or head[line.end() : line.end() + 2] != b"\r\n":
        if head.find(b"\r\n") > settings.max_target_bytes + 64:
            raise Violation(RequestFault.TARGET_TOO_LONG, f"the request target may have {settings.max_target_bytes} bytes")
        raise Violation(RequestFault.REQUEST_LINE, "expected: method, one space, target, one space, HTTP/1.0 or HTTP/1.1")
    if len(line[2]) > settings.max_target_bytes:
        raise Violation(RequestFault.TARGET_TOO_LONG, f"the request target may have {settings.max_target_bytes} bytes")
    if _FIELDS.fullmatch(head, line.end(), len(head) - 4) is None:
        raise Violation(RequestFault.FIELD, "a field line is not `name: value`, or holds a control character or a bare line end")
    lines = head[line.end() + 2 : -4].split(b"\r\n") if len(head) - 4 > line.end() else []
    if len(lines) > settings.max_fields:
        raise Violation(RequestFault.HEAD_TOO_LARGE, f"a request may have {settings.max_fields} fields")
    fields: CIMultiDict[str] = CIMultiDict()
    for field in lines:
        fields.add(*_field(field))
    method, target, http10 = line[1].decode("ascii"), line[2].decode("ascii"), line[3] == b"0"
    version = "1.0" if http10 else "1.1"
    return assemble(method, target, http10, CIMultiDictProxy(fields), settings, scheme=scheme, version=version)


def _field(line: bytes) -> tuple[str, str]:
    name, _, value = line.partition(b":")
    return name.decode("ascii"), value.strip(b" \t").decode("utf-8", "surrogateescape")


def assemble(
    method: str, target: str, http10: bool, fields: Headers, settings: ServeSettings, *, scheme: str, version: str = "1.1"
) -> Head:
    """The request that a method, a target and fields of valid syntax state. Raises Violation."""
    content_length, chunked = _framing(fields, http10=http10)
    if content_length > settings.max_body_bytes:
        raise Violation(RequestFault.BODY_TOO_LARGE, f"a request body may have {settings.max_body_bytes} bytes")
    host = _host(fields, http10=http10)
    authority, path = _target(method, target, host, scheme)
    if authority != authority_of(host, scheme) or is_rooted(host):
        # RFC 9112 section 3.2.2: what is sent on has the Host of the absolute form. And a source must not see more than the key.
        fields = CIMultiDictProxy(CIMultiDict([*((k, v) for k, v in fields.items() if k.lower() != "host"), ("Host", authority)]))
    if "Connection" in fields and (listed := hop_by_hop(fields) - HOP_BY_HOP):
        # RFC 9110 section 7.6.1. The source does not get them: they must not select what is stored either.
        fields = freeze(without(fields, listed))
    expect = fields.get("Expect")
    if expect is not None and expect.lower() != "100-continue":
        raise Violation(RequestFault.EXPECTATION, "only 100-continue is known")
    return Head(
        request=Request(method, scheme, authority, path, fields, version),
        # RFC 9931: a client may have sent what is for the tunnel already, which is nobody's request.
        keep_alive=method != "CONNECT" and _keep_alive(fields, http10=http10),
        http10=http10,
        content_length=content_length,
        chunked=chunked,
        expect_continue=expect is not None and not http10,
    )


def _framing(fields: Headers, *, http10: bool) -> tuple[int, bool]:
    """Content-Length and whether the body is chunked (RFC 9112 section 6), without guessing what a sender meant."""
    lengths = fields.getall("Content-Length", ())
    encodings = fields.getall("Transfer-Encoding", ())
    if encodings:
        if lengths:
            raise Violation(RequestFault.TRANSFER_ENCODING, "Content-Length and Transfer-Encoding together")
        if http10:
            raise Violation(RequestFault.TRANSFER_ENCODING, "HTTP/1.0 has no Transfer-Encoding")
        if len(encodings) != 1 or encodings[0].lower() != "chunked":
            raise Violation(RequestFault.TRANSFER_ENCODING, "the only transfer coding here is chunked, once")
        return 0, True
    if not lengths:
        return 0, False
    if len(lengths) != 1 or not _DIGITS.fullmatch(lengths[0]):
        raise Violation(RequestFault.CONTENT_LENGTH, "Content-Length is one decimal number")
    return int(lengths[0]), False


def _host(fields: Headers, *, http10: bool) -> str:
    """RFC 9112 section 3.2: exactly one, and a valid one."""
    hosts = fields.getall("Host", ())
    if not hosts and http10:
        return ""
    if len(hosts) != 1:
        raise Violation(RequestFault.HOST, "a request has exactly one Host field")
    if not is_authority(hosts[0]):
        raise Violation(RequestFault.HOST, "Host is not a host name with an optional port")
    return hosts[0]


def _target(method: str, target: str, host: str, scheme: str) -> tuple[str, str]:
    """Authority and origin-form target (RFC 9112 section 3.2); an absolute form's authority replaces Host."""
    if target[0] == "/":
        return authority_of(host, scheme), target
    if target == "*" and method == "OPTIONS":
        return authority_of(host, scheme), target
    if method == "CONNECT":
        return authority_of(host, scheme), target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not is_authority(absolute[2]):
        raise Violation(RequestFault.REQUEST_LINE, "the target is neither a path nor an http URI")
    path = absolute[3] or ("*" if method == "OPTIONS" else "/")
    return authority_of(absolute[2], scheme), path if path[0] != "?" else "/" + path


def _keep_alive(fields: Headers, *, http10: bool) -> bool:
    """RFC 9112 section 9.3."""
    options = {option.strip().lower() for line in fields.getall("Connection", ()) for option in line.split(",")}
    if "close" in options:
        return False
    return "keep-alive" in options if http10 else True


class _Await(enum.Enum):
    """Where in a chunked body the stream stands."""

    LENGTH = enum.auto()
    """A body with Content-Length."""
    SIZE = enum.auto()
    DATA = enum.auto()
    DATA_END = enum.auto()
    TRAILER = enum.auto()


class BodyFraming:
    """Follows one request body through the stream and tells where it ends."""

    def __init__(self, head: Head, max_body_bytes: int) -> None:
        self._state = _Await.SIZE if head.chunked else _Await.LENGTH
        self._left = head.content_length
        self._budget = max_body_bytes
        self._line = b""
        self._trailer_bytes = 0
        self._trailers: list[tuple[str, str]] = []
        self._content: list[bytes] | None = [] if head.chunked else None
        self.complete = False

    def trailers(self) -> tuple[tuple[str, str], ...]:
        """The fields after a chunked body that is complete; else none, and none where they are too many to be kept."""
        return tuple(self._trailers) if self.complete and len(self._trailers) <= MAX_TRAILERS else ()

    def advance(self, data: bytes, start: int) -> int:
        """The position after the bytes of `data` that belong to this body. Raises Violation."""
        while start < len(data) and not self.complete:
            match self._state:
                case _Await.LENGTH | _Await.DATA:
                    start = self._take(data, start)
                case _Await.SIZE | _Await.DATA_END | _Await.TRAILER:
                    start = self._read_line(data, start)
        return start

    def approved(self, data: bytes, start: int, end: int) -> bytes:
        """What the next parser is to see in place of these bytes that `advance` has passed: of a chunked body its content alone,
        in chunks of our own. Extensions and trailers end here, so that nobody reads them in another way.
        """
        if self._content is None:
            return data[start:end]
        content = b"".join(self._content)
        self._content.clear()
        chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        return chunk + b"0\r\n\r\n" if self.complete else chunk

    def _take(self, data: bytes, start: int) -> int:
        taken = min(self._left, len(data) - start)
        if self._content is not None:
            self._content.append(data[start : start + taken])
        self._left -= taken
        if self._left == 0:
            if self._state is _Await.LENGTH:
                self.complete = True
            else:
                self._state = _Await.DATA_END
        return start + taken

    def _read_line(self, data: bytes, start: int) -> int:
        """One line up to its CR LF, kept across reads, then what it means."""
        end = data.find(b"\n", start)
        stop = len(data) if end == -1 else end + 1
        self._line += data[start:stop]
        if len(self._line) > _MAX_CHUNK_LINE and self._state is not _Await.TRAILER:
            raise Violation(RequestFault.CHUNK, "a chunk's size line is too long")
        if len(self._line) + self._trailer_bytes > _MAX_TRAILER_BYTES:
            raise Violation(RequestFault.CHUNK, "the trailer section is too long")
        if end == -1:
            return stop
        if not self._line.endswith(b"\r\n"):
            raise Violation(RequestFault.LINE_END, "chunk lines end with CR LF")
        line, self._line = self._line[:-2], b""
        self._on_line(line)
        return stop

    def _on_line(self, line: bytes) -> None:
        if self._state is _Await.DATA_END:
            if line:
                raise Violation(RequestFault.CHUNK, "a chunk is longer than its size")
            self._state = _Await.SIZE
        elif self._state is _Await.SIZE:
            self._on_size(line)
        elif not line:
            self.complete = True
        elif _FIELDS.fullmatch(b"\r\n" + line) is None:
            raise Violation(RequestFault.CHUNK, "a trailer is not a field line")
        else:
            self._trailer_bytes += len(line) + 2
            if len(self._trailers) <= MAX_TRAILERS:
                self._trailers.append(_field(line))

    def _on_size(self, line: bytes) -> None:
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise Violation(RequestFault.CHUNK, "a chunk's size is not hexadecimal")
        self._left = int(size[1], 16)
        self._budget -= self._left
        if self._budget < 0:
            raise Violation(RequestFault.BODY_TOO_LARGE, "the request body is too long")
        self._state = _Await.DATA if self._left else _Await.TRAILER
