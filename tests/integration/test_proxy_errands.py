"""Misses that are answered where their response arrives, and all that makes them flights like the others after all."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.purging import Purge
from edgecache.policy.upstream import BreakerRule, Origin, RetryRule, Timeouts, UpstreamRule
from edgecache.processes import messages
from edgecache.sites import Site
from tests.integration.proxy_support import Edge, edge_for, raw_origin, read_head, until

_STORED = "Cache-Control: max-age=60\r\n"


def response(body: bytes = b"hello", *lines: str, status: str = "200 OK") -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}"))
    return head.encode() + b"\r\n" + body


@dataclass
class Scripted:
    """An origin that sends what the test says for a path, byte for byte, keeping its connections."""

    say: Callable[[str], bytes | None]
    """None: it closes the connection."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Paths that begin with /held wait for it."""
    ended: int = 0
    """Connections that the edge has closed."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await read_head(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                self.ended += 1
                return
            path = head.split(b" ", 2)[1].decode()
            self.asked.append(path)
            if path.startswith("/held"):
                await self.held.wait()
            said = self.say(path)
            if said is None:
                return
            for part in said.split(b"<pause>"):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02 if b"<pause>" in said else 0)


@contextlib.asynccontextmanager
async def scripted(say: Callable[[str], bytes | None], **options: Any) -> AsyncIterator[tuple[Edge, Scripted]]:
    """An edge that keeps a connection to such an origin."""
    origin = Scripted(say)
    async with raw_origin(origin.handle) as origin.url, edge_for(origin.url, **options) as edge:
        edge.client.headers.update({"Accept-Encoding": "identity"})
        await edge.fetch("/first")
        yield edge, origin


def always(said: bytes) -> Callable[[str], bytes | None]:
    return lambda path: response() if path == "/first" else said


async def test_a_site_that_was_told_by_another_process_has_its_misses_answered_so_too() -> None:
    told = messages.Publish(1, (Site(name="a", hosts=(), origins=(), upstream=UpstreamRule()),), ())
    rule = messages.TO_SERVING.decode(messages.ENCODER.encode(told)).changed[0].upstream
    async with scripted(always(response(b"body", "Cache-Control: max-age=60")), upstream_rule=rule) as (edge, _):
        before = edge.pipeline.errands.answered
        assert (await edge.fetch("/a")).body == b"body"
        assert edge.pipeline.errands.answered == before + 1


async def test_a_plain_miss_is_answered_stored_and_reported_without_a_task() -> None:
    async with scripted(always(response(b"body", "Cache-Control: max-age=60", "Age: 7", "X-A: b"))) as (edge, origin):
        before = edge.pipeline.errands.answered
        got = await edge.fetch("/a")
        assert (got.status, got.body, got.headers["X-A"], got.headers["Age"]) == (200, b"body", "b", "7")
        assert got.cache == "edgecache; fwd=uri-miss; stored"
        assert edge.pipeline.errands.answered == before + 1
        record = edge.records[-1]
        assert (record.status, record.cache, record.bytes_sent, record.uri) == (200, "miss", 4, edge.uri("/a"))
        assert record.request_id == got.headers["X-Request-Id"]
        assert (await edge.fetch("/a")).cache.startswith("edgecache; hit")
        assert origin.asked == ["/first", "/a"]


async def test_what_must_not_be_stored_is_answered_too_and_is_asked_for_by_each_client() -> None:
    async with scripted(always(response(b"mine", "Cache-Control: private"))) as (edge, origin):
        before = edge.pipeline.errands.answered
        first, second = await edge.fetch("/a"), await edge.fetch("/a")
        assert first.body == second.body == b"mine"
        assert first.cache == "edgecache; fwd=uri-miss"
        assert edge.records[-2].reason == "private"
        assert edge.pipeline.errands.answered == before + 2
        assert origin.asked == ["/first", "/a", "/a"]
        # It has been learnt that they need not wait for each other.
        tasks = [asyncio.create_task(edge.fetch("/a")) for _ in range(3)]
        assert {got.body for got in await asyncio.gather(*tasks)} == {b"mine"}
        assert origin.asked.count("/a") == 5


async def test_others_who_ask_for_the_same_wait_for_the_one_answer() -> None:
    async with scripted(always(response(b"shared", "Cache-Control: max-age=60"))) as (edge, origin):
        tasks = [asyncio.create_task(edge.fetch("/held")) for _ in range(5)]
        await until(lambda: len(origin.asked) == 2 and edge.pipeline.flights.joined == 4)
        origin.held.set()
        answers = await asyncio.gather(*tasks)
        assert {got.body for got in answers} == {b"shared"}
        assert sum("collapsed" in got.cache for got in answers) == 4
        assert origin.asked == ["/first", "/held"]


async def test_a_private_answer_is_for_the_one_who_asked_first() -> None:
    async with scripted(always(response(b"private", "Cache-Control: private"))) as (edge, origin):
        tasks = [asyncio.create_task(edge.fetch("/held")) for _ in range(3)]
        await until(lambda: edge.pipeline.flights.joined == 2)
        origin.held.set()
        assert {got.body for got in await asyncio.gather(*tasks)} == {b"private"}
        assert origin.asked.count("/held") == 3


async def test_an_answer_in_pieces_or_of_another_framing_takes_the_usual_way() -> None:
    shapes = {
        "/split": response(b"x" * 40, "Cache-Control: max-age=60").replace(b"xx", b"x<pause>x", 1),
        "/cut-head": b"HTTP/1.1 200 OK\r\nCache-<pause>Control: max-age=60\r\nContent-Length: 2\r\n\r\nok",
        "/chunked": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "/none": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/large": response(b"y" * 900_000, "Cache-Control: max-age=60"),
        "/hinted": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response(b"after"),
    }
    bodies = {"/split": b"x" * 40, "/cut-head": b"ok", "/chunked": b"ok", "/none": b"", "/large": b"y" * 900_000}
    async with scripted(lambda path: shapes.get(path, response())) as (edge, origin):
        before = edge.pipeline.errands.answered
        for path, body in bodies.items():
            got = await edge.fetch(path)
            assert got.body == body, path
        raw = await edge.raw(
            b"GET /hinted HTTP/1.1\r\nHost: a\r\n\r\nGET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        assert raw.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")
        assert b"HTTP/1.1 200 OK" in raw
        assert b"\r\n\r\nafter" in raw
        assert edge.pipeline.errands.answered == before
        assert [path for path in origin.asked if path != "/first"] == [*bodies, "/hinted"]


async def test_a_kept_connection_that_closes_under_the_request_is_not_the_clients_affair() -> None:
    closed: list[str] = []

    def once(path: str) -> bytes | None:
        if path == "/a" and not closed:
            closed.append(path)
            return None
        return response(b"again")

    async with scripted(once) as (edge, origin):
        assert (await edge.fetch("/a")).body == b"again"
        assert origin.asked.count("/a") == 2


async def test_an_answer_that_is_no_http_is_the_origins_failure() -> None:
    async with scripted(always(b"no HTTP at all\r\n\r\n")) as (edge, _origin):
        got = await edge.fetch("/a")
        assert got.status == 502
        assert edge.records[-1].reason == "protocol"


async def test_who_waits_too_long_for_the_first_byte_is_told() -> None:
    rule = UpstreamRule(timeouts=Timeouts(first_byte=0.2), retries=RetryRule(attempts=0))
    async with scripted(always(response()), upstream_rule=rule) as (edge, origin):
        assert (await edge.fetch("/held")).status == 504
        assert edge.records[-1].reason == "timeout"
        origin.held.set()
        await until(lambda: origin.ended == 1)


async def test_a_client_that_leaves_takes_its_request_with_it() -> None:
    async with scripted(always(response())) as (edge, origin):
        _reader, writer = await edge.connect()
        writer.write(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: "/held" in origin.asked)
        writer.transport.abort()
        await until(lambda: edge.records[-1].status == 499)
        origin.held.set()
        await until(lambda: origin.ended == 1)
        assert len(edge.pipeline.flights) == 0
        assert edge.upstreams.figures()[0].connections == 0
        assert (await edge.fetch("/a")).status == 200


async def test_a_client_that_leaves_does_not_take_from_others_what_they_wait_for() -> None:
    async with scripted(always(response(b"kept", "Cache-Control: max-age=60"))) as (edge, origin):
        _reader, writer = await edge.connect()
        writer.write(b"GET /held HTTP/1.1\r\nHost: %b\r\n\r\n" % edge.url("").authority.encode())
        await until(lambda: "/held" in origin.asked)
        other = asyncio.create_task(edge.fetch("/held"))
        await until(lambda: edge.pipeline.flights.joined == 1)
        writer.transport.abort()
        await until(lambda: edge.records[-1].status == 499)
        origin.held.set()
        assert (await other).body == b"kept"
        assert origin.asked == ["/first", "/held"]


async def test_what_was_asked_for_before_a_purge_is_not_stored_whoever_waits() -> None:
    async with scripted(always(response(b"old", "Cache-Control: max-age=60"))) as (edge, origin):
        for others in range(2):
            origin.held.clear()
            tasks = [asyncio.create_task(edge.fetch("/held")) for _ in range(1 + others)]
            await until(lambda: origin.asked.count("/held") == 1 and len(edge.pipeline.flights) == 1)
            if others:
                await until(lambda: edge.pipeline.flights.joined > 0)
            await edge.pipeline.purge(Purge(everything=True))
            origin.held.set()
            assert {got.body for got in await asyncio.gather(*tasks)} == {b"old"}
            asked = origin.asked.count("/held")
            await edge.fetch("/held")
            assert origin.asked.count("/held") == asked + 1
            await edge.pipeline.purge(Purge(everything=True))
            origin.asked.clear()


async def test_an_error_of_one_origin_is_another_ones_turn() -> None:
    good = Scripted(always(response(b"good")))
    bad = Scripted(lambda path: response() if path == "/first" else response(b"bad", status="503 Service Unavailable"))
    async with raw_origin(good.handle) as good.url, raw_origin(bad.handle) as bad.url:
        rule = UpstreamRule(origins=(Origin(bad.url), Origin(good.url)), retries=RetryRule(attempts=1, statuses=(503,)))
        async with edge_for(bad.url, good.url, upstream_rule=rule) as edge:
            for number in range(4):
                await edge.fetch("/first", params={"n": str(number)})
            for number in range(4):
                assert (await edge.fetch(f"/a{number}")).body == b"good"
            assert len([path for path in bad.asked if path.startswith("/a")]) > 0


async def test_a_full_origin_makes_misses_wait_for_their_turn() -> None:
    rule = UpstreamRule(breaker=BreakerRule(max_connections=1, max_pending=8))
    async with scripted(always(response(b"one")), upstream_rule=rule) as (edge, origin):
        tasks = [asyncio.create_task(edge.fetch(f"/held{number}")) for number in range(3)]
        await until(lambda: edge.upstreams.figures()[0].pending == 2)
        origin.held.set()
        assert {got.body for got in await asyncio.gather(*tasks)} == {b"one"}
        assert edge.upstreams.figures()[0].connections == 0


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with scripted(lambda path: response(path.encode())) as (edge, origin):
        paths = [f"/p{number}" for number in range(8)] + ["/held"] + [f"/q{number}" for number in range(8)]
        requests = [f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths]
        requests.append("GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answering = asyncio.create_task(edge.raw("".join(requests).encode()))
        await until(lambda: "/held" in origin.asked)
        assert "/q0" not in origin.asked
        origin.held.set()
        answers = (await answering).decode()
        assert re.findall(r"\r\n\r\n(/[a-z0-9]+)", answers) == [*paths, "/end"]


async def test_an_http_10_client_is_told_that_its_connection_lives_on() -> None:
    async with scripted(always(response(b"ten"))) as (edge, _origin):
        reader, writer = await edge.connect()
        writer.write(b"GET /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        head = await read_head(reader)
        assert b"\r\nConnection: keep-alive\r\n" in head
        assert await reader.readexactly(3) == b"ten"
        writer.write(b"GET /b HTTP/1.0\r\nHost: a\r\n\r\n")
        assert (await reader.read(-1)).endswith(b"\r\n\r\nten")


_FIELD = st.sampled_from(
    [
        "Cache-Control: max-age=60",
        "Cache-Control: no-store",
        "Cache-Control: private",
        "Cache-Control: no-cache",
        'Cache-Control: no-cache="X-Secret"',
        "Cache-Control: max-age=0, must-revalidate",
        "CDN-Cache-Control: max-age=30",
        "Surrogate-Control: max-age=30",
        "Expires: 0",
        "Age: 3",
        "Age: 100",
        "Vary: Accept-Language",
        "Vary: *",
        "X-Secret: 1",
        "Set-Cookie: a=b",
        "Connection: X-Secret",
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        'ETag: "a"',
        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
        "Date: Thu, 01 Jan 2026 00:00:00 GMT",
        "Content-Type: text/html",
        "Content-Encoding: gzip",
        "Content-Range: bytes 0-1/5",
        "Cache-Tag: a b",
        "Via: 1.1 x",
        "X-Request-Id: theirs",
        "Trailer: X-T",
        "x-lower: \u00e9",
    ]
)
_NOT_PLAIN = {"Connection: X-Secret", "x-lower: \u00e9", 'Cache-Control: no-cache="X-Secret"'}
_STATUS = st.sampled_from(["200 OK", "203 X", "206 Partial Content", "301 Moved", "404 Not Found", "410 ", "500 Oops", "503 X"])
_OWN = re.compile(rb"X-Request-Id: [0-9a-f-]+\r\n")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(_FIELD, max_size=5), _STATUS, st.binary(max_size=20)), min_size=1, max_size=8))
def test_both_ways_of_a_miss_say_the_same_and_leave_the_same(said: list[tuple[list[str], str, bytes]]) -> None:
    """The usual way, for want of a kept connection; then the short one; then what has been stored, if it has."""
    shapes = [response(body, *fields, status=status) for fields, status, body in said]

    def say(path: str) -> bytes:
        number = re.search(r"n=(\d+)", path)
        if path.startswith("/closing"):
            return response(b"", "Connection: close")
        return response() if number is None else shapes[int(number[1])]

    async def ask(edge: Edge, path: str) -> bytes:
        answer = await edge.raw(
            b"GET %b HTTP/1.1\r\nHost: a\r\nAccept-Language: de\r\n\r\n"
            b"GET /closing HTTP/1.1\r\nHost: a\r\nX-End: 1\r\nConnection: close\r\n\r\n" % path.encode()
        )
        return _OWN.sub(b"", answer)

    async def compare() -> None:
        async with scripted(say) as (edge, _origin):
            for number in range(len(shapes)):
                await edge.raw(b"GET /closing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                usual = await ask(edge, f"/usual?n={number}")
                await edge.fetch("/first")
                before = edge.pipeline.errands.answered
                short = await ask(edge, f"/short?n={number}")
                assert short == usual
                fields, status, _body = said[number]
                plain = status[:3] != "206" and _NOT_PLAIN.isdisjoint(fields) and len(set(fields)) == len(fields)
                if plain:
                    assert edge.pipeline.errands.answered == before + 1
                assert await ask(edge, f"/short?n={number}") == await ask(edge, f"/usual?n={number}")

    asyncio.run(compare())
