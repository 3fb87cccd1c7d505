"""A clock that is set back does not make what is stored immortal; small corrections change nothing."""

from __future__ import annotations

import itertools

import pytest
from aiohttp import web

from tests.integration.proxy_support import edge_for, origin_of


@pytest.mark.parametrize(("step", "fresh"), [(-1.0, True), (-60.0, True), (-3600.0, False), (-1e9, False)])
async def test_what_comes_from_the_future_is_validated(step: float, fresh: bool) -> None:
    numbers = itertools.count(1)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers={"ETag": '"a"', "Cache-Control": "max-age=600"})
        return web.Response(text=str(next(numbers)), headers={"ETag": '"a"', "Cache-Control": "max-age=600"})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        for _ in range(4):  # from the third on a hit is answered from a remembered head
            assert (await edge.fetch("/")).body == b"1"
        edge.clock.advance(step)
        for _ in range(4):
            got = await edge.fetch("/")
            assert got.body == b"1"
            assert "hit" in got.cache or not fresh
            assert int(got.headers.get("Age", "0")) <= 600
        assert origin.count == (1 if fresh else 2)


async def test_what_comes_after_the_step_takes_the_place_of_what_came_before() -> None:
    numbers = itertools.count(1)

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=str(next(numbers)), headers={"Cache-Control": "max-age=600"})

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        assert (await edge.fetch("/")).body == b"1"
        edge.clock.advance(-3600)
        for _ in range(4):
            assert (await edge.fetch("/")).body == b"2"
