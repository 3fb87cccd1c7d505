"""One request as a guest receives it, and its two wire forms.

Values and pure functions only. The monitor makes a `GuestRequest`; `vm.py` hands it to the program.
"""

from __future__ import annotations

import msgspec


class Delivered(msgspec.Struct, frozen=True, array_like=True):
    """CGI variables (RFC 3875 section 4.1) and the request's body, as a worker gets them: checked by whoever has sent them."""

    environ: tuple[tuple[bytes, bytes], ...]
    """Names and values; neither may hold a NUL, a name neither `=` nor nothing."""
    body: bytes = b""


class GuestRequest(Delivered, frozen=True, array_like=True):
    """The same, checked as it is made."""

    def __post_init__(self) -> None:
        if not self.environ:
            return
        names, values = zip(*self.environ, strict=True)
        together = b"".join(names)
        if all(names) and b"=" not in together and b"\0" not in together and b"\0" not in b"".join(values):
            return
        for name, value in self.environ:
            if not name or b"=" in name or b"\0" in name or b"\0" in value:
                raise ValueError(f"not an environment variable: {name!r}")


def scgi_frame(request: Delivered) -> bytes:
    """The request as `next_request` delivers it: SCGI's netstring of NUL-separated pairs, then the body.

    CONTENT_LENGTH comes first and is always the body's true length; SCGI follows unless the request names its own
    (the SCGI specification, section 2).
    """
    pairs, names = request.environ, dict(request.environ)
    if b"CONTENT_LENGTH" in names:
        pairs = tuple(pair for pair in pairs if pair[0] != b"CONTENT_LENGTH")
    own = b"" if b"SCGI" in names else b"SCGI\x001\0"
    rest = b"\0".join(map(b"\0".join, pairs)) + b"\0" if pairs else b""
    head = b"CONTENT_LENGTH\0%d\0%b%b" % (len(request.body), own, rest)
    return b"%d:%b,%b" % (len(head), head, request.body)


def cgi_environ(request: Delivered) -> tuple[tuple[bytes, bytes], ...]:
    """The request as a `cgi` program's environment; CONTENT_LENGTH is set exactly when there is a body (RFC 3875 4.1.2)."""
    kept = tuple(pair for pair in request.environ if pair[0] != b"CONTENT_LENGTH")
    return ((b"CONTENT_LENGTH", b"%d" % len(request.body)), *kept) if request.body else kept
