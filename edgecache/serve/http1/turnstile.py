"""What arrives on a connection of HTTP/1.1 comes here first, and what needs no turn is answered here: remembered heads, other
hits, plain misses. All else goes on.

A class of its own because it is compiled, which `connection` cannot be. That says when a head may be answered, and keeps time.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from functools import partial

from edgecache.observe.record import HTTP_1
from edgecache.serve.exchange import report_hit
from edgecache.serve.fast_lane import MAX_BODY_BYTES, MAX_HEAD_BYTES, FastLane
from edgecache.serve.guard import Head, HeadReader, Violation, find_head
from edgecache.serve.looking import Hit
from edgecache.serve.misses.errand import Errand
from edgecache.serve.pipeline import Pipeline
from edgecache.serve.request_id import next_request_id
from edgecache.serve.shape import is_plain
from edgecache.serve.wire import KEEP_ALIVE_10

InTurn = Callable[[Head], None]
Done = Callable[[], None]


class Turnstile:
    """The front of one connection."""

    __slots__ = (
        "_client",
        "_done",
        "_head",
        "_heads",
        "_in_turn",
        "_lane",
        "_pipeline",
        "_read",
        "_resume",
        "_settings",
        "_unknown",
        "_write",
        "errand",
        "waiter",
        "written",
    )

    def __init__(
        self,
        pipeline: Pipeline,
        lane: FastLane,
        heads: HeadReader,
        *,
        read: Callable[[bytes], None],
        in_turn: InTurn,
        done: Done,
    ) -> None:
        """`read` takes what is not answered at once. An errand ends by `done`, or by `in_turn` where a turn has to answer it."""
        self._pipeline = pipeline
        self._settings = pipeline.settings
        self._lane = lane
        self._heads = heads
        self._read = read
        self._in_turn = in_turn
        self._done = done
        self._write: Callable[[bytes], None] = _ignore
        self._client = ""
        self._unknown = b""
        """The bytes that the fast lane has just been asked about, and did not know."""
        self._head: Head | None = None
        """What `_unknown` was read to be, where it is one whole head."""
        self._resume: Future[None] | None = None
        """The `waiter` of before the errand, to be put back at its end, if nothing has happened to the connection since."""
        self.waiter: Future[None] | None = None
        """While it is there and not done, the connection waits for a head, and whole ones may be answered."""
        self.written = 0
        """Bytes of answers, since the connection was made."""
        self.errand: Errand | None = None
        """The miss under way, until it is answered or its turn takes it over."""

    def open(self, write: Callable[[bytes], None], client: str) -> None:
        """`write` is the transport's; `client`: its address."""
        self._write = write
        self._client = client

    def close(self) -> None:
        """The connection is over. Nothing here refers to it any more."""
        self._read = self._write = _ignore
        self.pause()
        errand, self.errand = self.errand, None
        if errand is not None:
            self._pipeline.errands.abandon(errand)
        self._in_turn, self._done = _never, _nothing

    def pause(self) -> None:
        """Answer nothing until there is a `waiter` again."""
        self.waiter = self._resume = None

    def data_received(self, data: bytes) -> None:
        """As asyncio's."""
        waiter = self.waiter
        if waiter is not None and len(data) <= MAX_HEAD_BYTES and not waiter.done():
            answer = self._lane.answer(data, self._client)
            if answer is not None:
                self.written += len(answer)
                self._write(answer)
                return
            if self._take_alone(data, waiter):
                return
            self._unknown = data
            self._read(data)
            self._unknown, self._head = b"", None
            return
        self._resume = None
        self._read(data)

    def read_head(self, raw: bytes) -> Head:
        """As `HeadReader.read`."""
        head = self._head
        return head if head is not None and raw is self._unknown else self._heads.read(raw)

    def answer_known(self, raw: bytes) -> bool:
        """Answer a hit of these very bytes again. False: read them."""
        if raw is self._unknown:
            return False
        answer = self._lane.answer(raw, self._client)
        if answer is None:
            return False
        self.written += len(answer)
        self._write(answer)
        return True

    def take(self, head: Head, raw: bytes) -> bool:
        """Answer a request without a body, or begin an `errand` for it. False: it needs a turn."""
        if not head.keep_alive or not is_plain(head.request):
            return False
        found = self._pipeline.look(head.request)
        if found is None:
            return False
        if isinstance(found, Hit):
            return self._answer_hit(found, head, raw)
        self._resume = None
        errand = self._pipeline.begin(head.request, found, self._client, partial(self._told, head))
        self.errand = errand
        return errand is not None

    def _take_alone(self, data: bytes, waiter: Future[None]) -> bool:
        """As `take`, where `data` is exactly one whole head. False: it is to be read as usual, whatever it is."""
        try:
            if find_head(data, 0, self._settings) != (0, len(data)):
                return False
            head = self._heads.read(data)
        except Violation:
            return False
        if head.has_body or not self.take(head, data):
            self._head = head
            return False
        if self.errand is not None and self.waiter is not None:
            self.waiter, self._resume = None, waiter
        return True

    def _told(self, head: Head, answer: bytes | None) -> None:
        """What an errand has brought; None: a turn has to bring it."""
        if answer is None:
            self._in_turn(head)
            return
        self.errand = None
        self.written += len(answer)
        self._write(answer)
        if self._resume is None:
            self._done()
        else:
            self.waiter, self._resume = self._resume, None

    def _answer_hit(self, hit: Hit, head: Head, raw: bytes) -> bool:
        """Answer with a fresh stored response. False: it is too long to be written without waiting."""
        entry = hit.entry
        body = entry.body
        if not isinstance(body, bytes) or len(body) > MAX_BODY_BYTES:
            return False
        pipeline = self._pipeline
        self._lane.learn(raw, head, entry, hit.route, pipeline.observer.repeated)
        request_id = next_request_id()
        answer = b"%bAge: %d\r\nCache-Status: %b; ttl=%d\r\nX-Request-Id: %b\r\n%b\r\n%b" % (
            entry.head,
            hit.age,
            pipeline.respond.hit_member,
            hit.lifetime_left,
            request_id.encode(),
            KEEP_ALIVE_10 if head.http10 else b"",
            body if head.method == "GET" else b"",
        )
        self.written += len(answer)
        self._write(answer)
        report_hit(pipeline, hit, head.request, request_id=request_id, client=self._client, protocol=HTTP_1)
        return True


def _ignore(data: bytes) -> None:
    del data


def _never(head: Head) -> None:
    del head


def _nothing() -> None:
    """Nobody waits any more."""
