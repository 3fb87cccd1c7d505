"""`edgecache generator run`: one request to a bundle, in the sandbox on this machine. No edge is needed.

The same code as in an edge shapes request and answer; stored values live in memory and are gone afterwards.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from edgecache.cli.authoring import bundle_argument, bundle_directory
from edgecache.cli.errors import CommandFailed, WrongUse
from edgecache.cli.options import FilledPath
from edgecache.cli.symbols import placed

if TYPE_CHECKING:
    from edgecache.cli.packing import Packed
    from edgecache.policy.message import Request, Response
    from sandbox import Outcome

ENGINES: Final = ("auto", "unicorn", "kvm")
"""`sandbox.engines.ENGINES`, which would be slow to import for --help."""
_KEY: Final = "local"
_AUTHORITY: Final = "localhost"
_MAX_REQUEST_BYTES: Final = 2 << 20
_FETCH_TIMEOUT_S: Final = 10.0
_MAX_FETCH_BYTES: Final = 8 << 20

_ADVICE: Final = {
    "cpu-limit": "let one request do less, or raise limits.cpu in generator.yaml",
    "wall-limit": "wait for less, or raise limits.wall in generator.yaml",
    "memory-limit": "use less, or raise limits.memory in generator.yaml",
    "output-limit": "send less, or raise limits.output in generator.yaml",
    "edge-call-limit": "call less often, or raise limits.edge_calls or limits.sub_requests in generator.yaml",
    "system-call-limit": "read and write in larger pieces, or raise limits.system_calls in generator.yaml",
    "fault": "an address near 0 is a null pointer, `stack` a recursion without end; `generator build` makes it known where",
    "no-answer": "answer every request before the next is asked for: edge_begin() to edge_finish()",
    "bad-answer": "write header lines, an empty line, the body (RFC 3875 section 6)",
    "exit-status": "a `cgi` program ends with exit(0); a `resident` one never ends: it asks for the next request",
    "rejected": "build it with `edgecache generator build`, or link it statically for x86-64 Linux",
    "boot-failed": "mend what comes before the first next_request, or raise limits.boot_cpu in generator.yaml",
}


@click.command()
@bundle_argument
@click.option("--target", metavar="/PATH?QUERY", help="What to ask for  [default: the manifest's sample]")
@click.option("--method", default="GET", show_default=True)
@click.option("--header", "-H", "headers", multiple=True, metavar="NAME: VALUE", help="A request header; repeat it for more")
@click.option(
    "--request",
    "message",
    type=FilledPath(allow_dash=True),
    metavar="FILE|-",
    help="In place of the three: `METHOD /target`, header lines, an empty line, the body",
)
@click.option("--origin", metavar="URL", help="Where the program's fetches go; without it they fail")
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True)
@click.option("--body", "body_only", is_flag=True, help="Print the body alone")
def run(
    *,
    path: Path | None,
    target: str | None,
    method: str,
    headers: tuple[str, ...],
    message: Path | None,
    origin: str | None,
    engine: str,
    body_only: bool,
) -> None:
    """Answer one request with the bundle in the directory PATH (default: this one), here.

    The answer goes to standard output, what the program logs and used to standard error.
    """
    from edgecache.cli.packing import pack  # noqa: PLC0415 (slow to import: not for --help)

    if message is not None and (target or headers):
        raise click.UsageError("give --request or --target and --header, not both")
    if origin is not None and not _is_origin(origin):
        raise click.UsageError(f"--origin {origin!r} is not http://HOST:PORT")
    if target is not None and not target.startswith("/"):
        raise click.UsageError(f"--target {target!r} does not begin with /, as paths do")
    packed = pack(bundle_directory(path))
    sample = packed.manifest.sample
    shown = [f"{name}: {value}" for name, value in sample.headers] if target is None and not headers else list(headers)
    text = "\n".join([f"{method} {target or sample.path}", *shown]).encode("utf-8", "surrogateescape") + b"\n\n"
    data = text if message is None else _read(message)
    wrong = CommandFailed if message is not None or (target is None and not headers and method == "GET") else WrongUse
    asked = _parsed(data, wrong)
    _tell_of_routes(packed.manifest.routes, asked[0].target.partition("?")[0])
    answer, outcome = asyncio.run(_call(packed, asked, origin, engine))
    _tell(outcome)
    if not outcome.ok:
        detail = placed(outcome.detail, bundle_directory(path) / packed.manifest.program)
        raise CommandFailed(
            f"the program gave no answer: {outcome.end}" + (f": {detail}" if detail else ""),
            advice=_ADVICE.get(outcome.end, "see what it logged above; docs/guest.md names every way in which a request ends"),
        )
    _print_answer(answer, body_only=body_only)


def _tell_of_routes(routes: tuple[str, ...], path: str) -> None:
    """An edge asks a program for what its routes claim alone; here it is asked all the same."""
    from edgecache.policy.globs import GlobIndex  # noqa: PLC0415 (as above)
    from edgecache.policy.paths import normal  # noqa: PLC0415

    if GlobIndex((route, True) for route in routes).find(normal(path)) is None:
        click.echo(f"note: no edge would ask this program for {path}: its routes are {', '.join(routes)}", err=True)


def _read(message: Path) -> bytes:
    """At most _MAX_REQUEST_BYTES. Raises CommandFailed."""
    try:
        if message == Path("-"):
            data = sys.stdin.buffer.read(_MAX_REQUEST_BYTES + 1)
        else:
            with message.open("rb") as file:
                data = file.read(_MAX_REQUEST_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"cannot read {message}: {error.strerror}", advice="name a file that holds a request") from error
    if len(data) > _MAX_REQUEST_BYTES:
        raise CommandFailed(f"the request is longer than {_MAX_REQUEST_BYTES >> 20} MiB", advice="send a shorter body")
    return data


def _parsed(data: bytes, wrong: type[CommandFailed]) -> tuple[Request, bytes]:
    """A request and its body. Raises `wrong`."""
    from edgecache.generate.edge_calls import parse_fetch  # noqa: PLC0415 (as above)
    from edgecache.source import SourceError  # noqa: PLC0415

    line, newline, rest = data.partition(b"\n")
    try:
        return parse_fetch(line.rstrip(b"\r").removesuffix(b" HTTP/1.1") + newline + rest, "http", _AUTHORITY)
    except SourceError as error:
        advice = "write METHOD /target, header lines, an empty line, the body"
        if wrong is WrongUse:
            # Of options, which hold a part each; a target has its spaces and letters beyond ASCII as %20 and the like.
            advice = "correct --method GET, --target /PATH?QUERY (percent-encoded) or --header 'NAME: VALUE'"
        raise wrong(f"not a request: {error.detail}", advice=advice) from error


async def _call(packed: Packed, asked: tuple[Request, bytes], origin: str | None, engine: str) -> tuple[bytes, Outcome]:
    from edgecache.generate import cgi  # noqa: PLC0415 (as above)
    from edgecache.generate.edge_calls import GeneratorEdgeCalls  # noqa: PLC0415
    from sandbox import GuestFailed, GuestRequest, Monitor, MonitorPolicy, SandboxError  # noqa: PLC0415

    request, body = asked
    logging.getLogger("sandbox").setLevel(logging.ERROR)  # what the jail lacks on this machine is no news to an author
    guest = GuestRequest(cgi.environ(request, body, client_ip="127.0.0.1", request_id="local"), body)
    edge = GeneratorEdgeCalls("http", _AUTHORITY, _Fetcher(origin).fetch, "local", packed.manifest.name, _Values())
    answer = bytearray()
    try:
        async with Monitor(MonitorPolicy(engine=engine)) as monitor:
            program = packed.manifest.program_of(packed.bundle)
            monitor.register(_KEY, program, packed.manifest.limits, tenant=_KEY)
            call = monitor.call(_KEY, guest, edge=edge, log=_log)
            try:
                async for chunk in call:
                    answer += chunk
            except GuestFailed as failed:
                return bytes(answer), failed.outcome
            finally:
                await call.aclose()
            if call.outcome is None:
                raise CommandFailed("the sandbox lost the request", advice="run it again; report it if it happens again")
            return bytes(answer), call.outcome
    except SandboxError as error:
        raise CommandFailed(f"the sandbox cannot run it: {error}", advice="try --engine unicorn") from error


def _log(data: bytes) -> None:
    for line in data.decode("utf-8", "replace").splitlines():
        click.echo("log: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), err=True)


def _tell(outcome: Outcome) -> None:
    used = outcome.usage
    facts = [
        f"{outcome.end}",
        f"{used.cpu_ns / 1e6:.2f} ms CPU",
        f"{used.wall_ns / 1e6:.2f} ms in all",
        f"{used.system_calls} system calls",
        f"{used.pages_written} pages written",
    ]
    if used.unknown_calls:
        facts.append(f"calls not known here: {', '.join(map(str, used.unknown_calls))}")
    click.echo("run: " + " · ".join(facts), err=True)


def _print_answer(answer: bytes, *, body_only: bool) -> None:
    from edgecache.generate import cgi  # noqa: PLC0415 (as above)

    try:
        parsed = cgi.parse(answer)
    except cgi.BadAnswer as error:
        raise CommandFailed(f"the program's answer is not CGI-shaped: {error}", advice=_ADVICE["bad-answer"]) from error
    if parsed is None:
        raise CommandFailed("the program's answer ends before a blank line", advice="end the headers with an empty line")
    out = sys.stdout.buffer
    if not body_only:
        response = parsed.response
        lines = [f"HTTP/1.1 {response.status} {response.reason}".rstrip(), *(f"{n}: {v}" for n, v in response.headers.items())]
        out.write("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n\n")
    out.write(parsed.rest)
    out.flush()


class _Values:
    """Stored values for the length of one command."""

    def __init__(self) -> None:
        from edgecache.control.settings import StoredValueLimits  # noqa: PLC0415 (as above)

        self._limits = StoredValueLimits()
        self._values: dict[bytes, bytes] = {}

    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None:
        return self._values.get(key)

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        """False where an edge with the default bounds has no room."""
        others = {known: kept for known, kept in self._values.items() if known != key}
        total = len(key) + len(value) + sum(len(known) + len(kept) for known, kept in others.items())
        if len(key) > self._limits.key_bytes or len(value) > self._limits.value_bytes or total > self._limits.total_bytes:
            return False
        self._values = {**others, key: value}
        return True


class _Fetcher:
    """The program's fetches, straight to one origin: no cache stands between."""

    def __init__(self, origin: str | None) -> None:
        self._origin = origin

    async def fetch(self, request: Request, body: bytes) -> tuple[Response, bytes]:
        """Raises SourceError."""
        from edgecache.source import Culprit, SourceError  # noqa: PLC0415 (as above)

        if self._origin is None:
            click.echo(f"run: {request.method} {request.target} was not fetched: name an origin with --origin", err=True)
            raise SourceError(Culprit.ORIGIN, "connect", "no --origin was given", status=502)
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT_S):
                return await asyncio.to_thread(_fetch, self._origin, request, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(Culprit.ORIGIN, "connect", f"{self._origin}: {error}", status=502) from error


def _is_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _fetch(origin: str, request: Request, body: bytes) -> tuple[Response, bytes]:
    from multidict import CIMultiDict, CIMultiDictProxy  # noqa: PLC0415 (as above)

    from edgecache.policy.message import Response  # noqa: PLC0415

    parts = urlsplit(origin)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_FETCH_TIMEOUT_S)
    try:
        fields = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        connection.request(request.method, request.target, body or None, fields)
        with connection.getresponse() as answer:
            content = answer.read(_MAX_FETCH_BYTES + 1)
            if len(content) > _MAX_FETCH_BYTES:
                raise ValueError(f"the answer is longer than {_MAX_FETCH_BYTES >> 20} MiB")
            return Response(answer.status, answer.reason, CIMultiDictProxy(CIMultiDict(answer.getheaders()))), content
    finally:
        connection.close()
