"""Whatever origins do, in any order and with any rule: what is promised of retries, hedges and places. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.upstream import (
    Balance,
    BreakerRule,
    EjectionRule,
    HedgeRule,
    Origin,
    RetryOn,
    RetryRule,
    Timeouts,
    UpstreamRule,
)
from tests.integration.proxy_support import edge_for, raw_origin, read_head

OK, ERROR, RESET, HANG, GARBAGE, CUT = "ok", "error", "reset", "hang", "garbage", "cut"
ANSWERS = {
    OK: b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nok",
    ERROR: b"HTTP/1.1 503 Unavailable\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nno",
    GARBAGE: b"what?\r\n\r\n",
    CUT: b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 20\r\n\r\nbeg",
}
RULES = st.builds(
    UpstreamRule,
    balance=st.sampled_from(Balance),
    ejection=st.none() | st.builds(EjectionRule, errors=st.integers(1, 3)),
    breaker=st.builds(
        BreakerRule,
        max_connections=st.none() | st.integers(1, 2),
        max_pending=st.just(2),
        max_failures=st.none() | st.integers(1, 3),
    ),
    retries=st.builds(
        RetryRule,
        attempts=st.integers(0, 3),
        on=st.lists(st.sampled_from(RetryOn), unique=True).map(tuple),
        statuses=st.sampled_from([(), (503,)]),
    ),
    hedge=st.none() | st.builds(HedgeRule, after=st.just(0.005)),
    timeouts=st.just(Timeouts(first_byte=0.02, between_bytes=0.02)),
)
BEHAVIOUR = st.lists(st.sampled_from([OK, ERROR, RESET, HANG, GARBAGE, CUT]), min_size=1, max_size=6)
REQUESTS = st.lists(st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH"]), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(RULES, st.lists(BEHAVIOUR, min_size=1, max_size=3), REQUESTS, st.booleans())
def test_promises(rule: UpstreamRule, behaviours: list[list[str]], methods: list[str], at_once: bool) -> None:
    asyncio.run(_promises(rule, behaviours, methods, at_once))


async def _promises(rule: UpstreamRule, behaviours: list[list[str]], methods: list[str], at_once: bool) -> None:
    sent: Counter[str] = Counter()
    """Heads that origins have seen, by number of the request."""

    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(raw_origin(_origin(behaviour, sent))) for behaviour in behaviours]
        said = UpstreamRule(**{name: getattr(rule, name) for name in rule.__slots__} | {"origins": (Origin(urls[-1], weight=2),)})
        edge = await stack.enter_async_context(edge_for(*urls, upstream_rule=said))

        async def ask(number: int, method: str) -> int:
            try:
                body = b"x" if method in {"POST", "PUT", "PATCH"} else None
                return (await edge.fetch(f"/{number}", method, data=body)).status
            except OSError:
                return 0
            except Exception as error:
                assert type(error).__name__ in {"ClientPayloadError", "ServerDisconnectedError"}, error
                return 0

        async with asyncio.timeout(60):
            if at_once:
                statuses = await asyncio.gather(*(ask(*pair) for pair in enumerate(methods)))
            else:
                statuses = [await ask(*pair) for pair in enumerate(methods)]
            for number, (method, status) in enumerate(zip(methods, statuses, strict=True)):
                seen = sent[str(number)]
                assert status in {0, 200, 502, 503, 504}
                if method in {"POST", "PATCH"}:
                    assert seen <= 1, "what is not idempotent was sent twice"
                if status == 200:
                    assert seen >= 1
                # A client library may send a bodiless request once more where a kept connection was closed; a hedge goes along
                # with each attempt.
                assert seen <= (rule.retries.attempts + 1) * 2 * 2
            while any(row.connections or row.pending for row in edge.upstreams.figures()):
                await asyncio.sleep(0.005)
        total = sum(row.retries + row.hedges for row in edge.upstreams.figures())
        assert total <= len(methods) * (rule.retries.attempts * 2 + 1)


def _origin(behaviour: list[str], sent: Counter[str]):  # type: ignore[no-untyped-def]
    """Does one after the other of these, for ever, request by request."""
    turn = iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await read_head(reader)).decode("latin-1")
            sent[head.split()[1].removeprefix("/")] += 1
            if "content-length: 1\r\n" in head.lower():
                await reader.readexactly(1)
            elif "transfer-encoding" in head.lower():
                await reader.readuntil(b"0\r\n\r\n")
            does = behaviour[next(turn) % len(behaviour)]
            if does == HANG:
                await asyncio.sleep(60)
            answer = ANSWERS.get(does, b"")
            writer.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if answer and head.startswith("HEAD") else answer)
            await writer.drain()
            if does in {RESET, GARBAGE, CUT}:
                writer.close()
                return

    return serve
