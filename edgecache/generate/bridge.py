"""A generator as a source of responses: a request becomes a call to a VM, the VM's output becomes a response.

Called by `serve` through the `Source` protocol. The sandbox runs the program; `cgi` shapes both directions; failures come out
as SourceError with the sandbox's own word for what happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from edgecache.generate import cgi
from edgecache.generate.begun import BODILESS, BegunCall, GuestAnswer
from edgecache.generate.telling import failure_line, retry_after
from edgecache.policy.forwarding import dated
from edgecache.policy.message import Request
from edgecache.sites import ActiveVersion, GeneratorRoutes
from edgecache.source import Body, Culprit, Interim, Reply, Resumed, Source, SourceError
from sandbox import End, GuestFailed, GuestRequest, Usage

MAX_REQUEST_BODY: Final = 1 << 20
"""A generator's request body is placed in guest memory whole."""

_STATUS_OF: Final = {
    End.WALL_LIMIT: 504,
    End.QUEUE_FULL: 503,
    End.NO_MEMORY: 503,
    End.QUARANTINED: 503,
    End.UNKNOWN_GENERATOR: 503,
    End.WORKER_DIED: 503,
    End.CPU_LIMIT: 503,
}
"""What a client gets when no fallback answers; everything else is 502: the program, not the edge, is at fault."""


Calls = TypeVar("Calls")
"""The edge calls that a runner asks for: `sandbox.EdgeCalls`, or a part of them where the rest is answered elsewhere."""
Calls_contra = TypeVar("Calls_contra", contravariant=True)


class GuestRunner(Protocol[Calls_contra]):
    """The one method of `sandbox.Monitor` that is used here."""

    def call(self, key: str, request: GuestRequest, *, edge: Calls_contra, log: Callable[[bytes], None]) -> GuestAnswer: ...


class GuestLog(Protocol):
    """Where a generator's log lines go."""

    def write(self, version: int, request_id: str, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class GeneratorSource(Generic[Calls]):
    """One generator's active versions, for one request."""

    runner: GuestRunner[Calls]
    generator: GeneratorRoutes
    edge_calls: Calls
    log: GuestLog
    client_ip: str
    point: float
    """Where in [0, 100) this request falls in the split between versions."""
    now: Callable[[], float]
    on_usage: Callable[[str, End, Usage], None]
    """Told once a call, with the generator's key, how it ended and what it used."""
    ready: Callable[[str], Awaitable[None]]
    """Makes the version with this key known to the runner. Raises SourceError where it cannot."""
    known: Callable[[str], bool]
    """Whether `ready` has nothing to do for this key."""

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        """Run the program on `request`; it has no interim responses. Raises SourceError before the first byte of an answer."""
        if cgi.holds_nul(request.target):
            raise SourceError(Culprit.CLIENT, "nul-in-path", "a NUL cannot be handed to a program", status=400)
        content = await read_bounded(body, MAX_REQUEST_BODY)
        version = pick(self.generator.active, self.point)
        await self.ready(version.key)
        return await self.answer(self._call(version, request, content, request_id), version, request, request_id)

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> BegunCall | None:
        """As `Source.begin`: where the version is known to the runner."""
        del on_interim
        version = pick(self.generator.active, self.point)
        if cgi.holds_nul(request.target) or not self.known(version.key):
            return None
        return BegunCall(self, self._call(version, request, b"", request_id), version, told)

    def _call(self, version: ActiveVersion, request: Request, content: bytes, request_id: str) -> GuestAnswer:
        environ = cgi.environ(request, content, client_ip=self.client_ip, request_id=request_id)
        return self.runner.call(
            version.key,
            GuestRequest(environ, content),
            edge=self.edge_calls,
            log=lambda data: self.log.write(version.version, request_id, data),
        )

    async def answer(self, call: GuestAnswer, version: ActiveVersion, request: Request, request_id: str) -> Reply:
        """What comes of `call`, by this version. Raises SourceError before the first byte of an answer."""
        output = _Output(
            call, version.key, self.on_usage, lambda end, detail: self._tell(version, request, request_id, end, detail)
        )
        try:
            answer = await output.head()
        except BaseException:
            await output.close()
            raise
        response = dated(answer.response, self.now())
        carried = request.method != "HEAD" and response.status not in BODILESS
        output.expect(answer, carried=carried)
        return Reply(response, output, detail=version.key)

    def going_on(self, begun: BegunCall) -> Source:
        """The source whose first answer is what comes of `begun`; if it is asked again, it runs the program again."""

        async def first(request: Request, request_id: str, _on_interim: Interim | None) -> Reply:
            call, version = begun.taken()
            return await self.answer(call, version, request, request_id)

        return Resumed(self, first)

    def _tell(self, version: ActiveVersion, request: Request, request_id: str, end: End, detail: str) -> None:
        line = failure_line(request.method, request.target, end, detail)
        if line is not None:
            self.log.write(version.version, request_id, line)


class _Output:
    """The guest's output on its way: its head taken off, its length held to what the head says."""

    def __init__(
        self,
        call: GuestAnswer,
        key: str,
        on_usage: Callable[[str, End, Usage], None],
        tell: Callable[[End, str], None],
    ) -> None:
        self._call = call
        self._chunks = call.__aiter__()
        self._key = key
        self._on_usage = on_usage
        self._tell = tell
        self._first = b""
        self._length: int | None = None
        self._carried = True
        self._reported = False

    async def head(self) -> cgi.CgiResponse:
        """Read until the head is complete. Raises SourceError."""
        buffer = b""
        while True:
            chunk = await self._next()
            try:
                answer = cgi.parse(buffer + (chunk or b""))
            except cgi.BadAnswer as error:
                raise self._bad(str(error)) from error
            if answer is not None:
                return answer
            if chunk is None:
                raise self._bad("the output ended before a blank line: headers must end with one")
            buffer += chunk

    def expect(self, answer: cgi.CgiResponse, *, carried: bool) -> None:
        """What body to expect after `answer`; `carried`: whether the response has one at all (RFC 9110 section 6.4.1)."""
        self._first, self._length, self._carried = answer.rest, answer.length, carried

    async def __aiter__(self) -> AsyncIterator[bytes]:
        sent = 0
        chunk: bytes | None = self._first
        while chunk is not None:
            sent += len(chunk)
            if self._length is not None and sent > self._length:
                raise self._bad(f"more body than its Content-Length of {self._length}")
            if chunk and self._carried:
                yield chunk
            chunk = await self._next()
        if self._carried and self._length not in (None, sent):
            raise self._bad(f"{sent} bytes of body, Content-Length says {self._length}")

    async def close(self) -> None:
        """Stop the guest if it still runs; idempotent."""
        await self._call.aclose()
        self._report(End.CANCELLED)

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            self._report(End.FINISHED)
            return None
        except GuestFailed as failure:
            self._report(failure.outcome.end, failure.outcome.detail)
            raise _failed(failure.outcome.end, failure.outcome.detail) from failure

    def _bad(self, detail: str) -> SourceError:
        self._report(End.BAD_ANSWER, detail)
        return _failed(End.BAD_ANSWER, detail)

    def _report(self, end: End, detail: str = "") -> None:
        if self._reported:
            return
        self._reported = True
        self._tell(end, detail)
        outcome = self._call.outcome
        self._on_usage(self._key, end, outcome.usage if outcome else Usage())


def pick(active: tuple[ActiveVersion, ...], point: float) -> ActiveVersion:
    """The version at `point` of the split; the last one takes what rounding leaves."""
    reached = 0
    for version in active:
        reached += version.percent
        if point < reached:
            return version
    return active[-1]


async def read_bounded(body: Body | None, limit: int) -> bytes:
    """The whole body. Raises SourceError (culprit client, 413) past `limit` bytes."""
    if body is None:
        return b""
    parts: list[bytes] = []
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > limit:
            raise SourceError(Culprit.CLIENT, "too-large", f"a generator takes at most {limit} bytes of body", status=413)
        parts.append(chunk)
    return b"".join(parts)


def _failed(end: End, detail: str) -> SourceError:
    return SourceError(Culprit.GENERATOR, str(end), detail, status=_STATUS_OF.get(end, 502), retry_after=retry_after(end, detail))
