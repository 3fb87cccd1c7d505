"""Traces of a whole edge, as a collector gets them: OTLP over HTTP, decoded; and traceparent, in and out."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from edgecache.config import Address, Config
from edgecache.control.settings import ControlSettings
from edgecache.edge import Edge
from edgecache.observe.settings import ObserveSettings, TraceSettings
from edgecache.processes.one_process import OneProcess
from edgecache.processes.path import RequestPath
from edgecache.sites import Site
from sandbox.sdk import compile_c
from tests.control_support import tar
from tests.integration.proxy_support import raw_origin, read_head

pytestmark = pytest.mark.timeout(900)

SERVER, CLIENT, INTERNAL = 2, 3, 1
"""opentelemetry.proto.trace.v1.Span.SpanKind"""
ERROR = 2
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PROGRAM = r"""
#include "edge.h"
static char fetched[65536];
int main(void) {
    static edge_request req;
    while (edge_next(&req)) {
        edge_response res;
        edge_fetched found;
        if (strcmp(req.path, "/g/wild") == 0) *(volatile int *)16 = 1;
        edge_fetch("/from-guest", NULL, fetched, sizeof fetched, &found);
        edge_begin(&res, 200, "text/plain");
        edge_set(&res, "Cache-Control", "no-store");
        edge_printf(&res, "[%s]", edge_or_empty(edge_header(&req, "traceparent")));
        edge_end(&res);
    }
    return 1;
}
"""
MANIFEST = b"{name: probe, program: probe, convention: resident, routes: [/g/*], on_error: [error]}"


@dataclasses.dataclass
class Collector:
    """What it was sent, and what it answers."""

    url: str = ""
    spans: list[Any] = dataclasses.field(default_factory=list)
    services: set[str] = dataclasses.field(default_factory=set)
    status: int = 200

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Content-Type"] == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            self.services |= {pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name"}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.status)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


def told(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


@dataclasses.dataclass
class Running:
    """An edge in front of an origin that keeps the fields of its requests, and a collector."""

    url: str
    control: str
    token: str
    http: aiohttp.ClientSession
    collector: Collector
    asked: list[web.BaseRequest]
    edge: Edge

    async def get(self, path: str, **headers: str) -> aiohttp.ClientResponse:
        async with self.http.get(self.url + path, headers={"Host": "shop.test", **headers}) as response:
            await response.read()
            return response

    async def finish(self) -> None:
        """Everything is sent once the edge has ended."""
        await self.edge.close()


@asynccontextmanager
async def listening(handler: Any) -> AsyncIterator[str]:
    server = web.Server(handler)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(tmp_path: Path, *, origin_url: str = "", **traces: Any) -> AsyncIterator[Running]:
    collector = Collector()
    asked: list[web.BaseRequest] = []

    async def origin(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request)
        if request.path == "/broken":
            return web.Response(status=503)
        return web.Response(text="page", headers={"Cache-Control": "max-age=60"})

    async with listening(collector.handle) as collecting, listening(origin) as behind, aiohttp.ClientSession() as http:
        settings = TraceSettings(endpoint=f"{collecting}/v1/traces", **{"sample": 1.0, **traces})
        state = tmp_path / "state"
        edge = Edge(
            Config(
                listen=Address("127.0.0.1", 0),
                state_dir=state,
                control=ControlSettings(state_dir=state, port=0),
                sites=(Site(name="shop", hosts=("shop.test",), origins=(origin_url or behind,), from_config=True),),
                observe=ObserveSettings(traces=settings),
            )
        )
        try:
            served, control = await edge.start()
            token = (state / "operator.token").read_text().strip()
            yield Running(f"http://{served}", f"http://{control}", token, http, collector, asked, edge)
        finally:
            await edge.close()


async def test_a_miss_is_a_trace_from_the_request_to_the_origin(tmp_path: Path) -> None:
    async with running(tmp_path, service="edge-1") as here:
        response = await here.get("/page?secret=1")
        await here.finish()
        assert here.collector.services == {"edge-1"}
        (server,) = here.collector.named("GET")
        (lookup,) = here.collector.named("cache lookup")
        (flight,) = here.collector.named("flight")
        (origin,) = here.collector.named("origin")
        assert (server.kind, flight.kind, origin.kind) == (SERVER, INTERNAL, CLIENT)
        assert {span.trace_id for span in here.collector.spans} == {server.trace_id}
        assert server.parent_span_id == b""
        assert (lookup.parent_span_id, flight.parent_span_id) == (server.span_id, server.span_id)
        assert origin.parent_span_id == flight.span_id
        assert server.start_time_unix_nano <= flight.start_time_unix_nano <= origin.start_time_unix_nano
        assert origin.start_time_unix_nano < origin.end_time_unix_nano <= server.end_time_unix_nano
        said = told(server)
        assert (said["http.response.status_code"], said["url.path"], said["url.query"]) == (200, "/page", "secret=1")
        assert (said["edgecache.cache"], said["edgecache.site"]) == ("miss", "shop")
        assert said["edgecache.request_id"] == response.headers["X-Request-Id"]
        assert told(lookup)["edgecache.stored"] is False
        assert told(origin)["http.response.body.size"] == 4
        assert here.asked[0].headers.getall("traceparent") == [f"00-{server.trace_id.hex()}-{origin.span_id.hex()}-01"]
        assert "Traceparent" not in response.headers


async def test_trailers_reach_clients_of_traced_requests_too(tmp_path: Path) -> None:
    async def trailed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        head = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n")

    async with raw_origin(trailed) as url, running(tmp_path, origin_url=url) as here:
        reader, writer = await asyncio.open_connection(*here.url.removeprefix("http://").split(":"))
        writer.write(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close, TE\r\nTE: trailers\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.read(-1)).endswith(b"body\r\n0\r\nX-Sum: 1\r\n\r\n")
        writer.close()
        await here.finish()
        assert len(here.collector.named("origin")) == 1


def path_of(edge: Edge) -> RequestPath:
    servers = edge._servers
    assert isinstance(servers, OneProcess)
    return servers.path


async def test_hits_are_traced_whichever_way_they_are_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for _ in range(4):
            await here.get("/page")
        await here.get("/page", Traceparent=f"00-{TRACE}-{SPAN}-00")
        path = path_of(here.edge)
        assert path.pipeline.fast_hits == 2
        await here.finish()
        words = sorted(told(span)["edgecache.cache"] for span in here.collector.named("GET"))
        assert words == ["hit"] * 4 + ["miss"]
        assert len({span.trace_id for span in here.collector.named("GET")}) == 5
        assert [span.parent_span_id.hex() for span in here.collector.named("GET") if span.parent_span_id] == [SPAN]


async def test_a_clients_trace_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await here.get("/page", Traceparent=f"00-{TRACE}-{SPAN}-01", Tracestate="a=1")
        await here.finish()
        (server,) = here.collector.named("GET")
        (origin,) = here.collector.named("origin")
        assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, SPAN)
        assert here.asked[0].headers["traceparent"] == f"00-{TRACE}-{origin.span_id.hex()}-01"
        assert here.asked[0].headers["tracestate"] == "a=1"


async def test_what_is_no_traceparent_begins_a_trace_and_goes_no_further(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await here.get("/page", Traceparent=f"00-{TRACE.upper()}-{SPAN}-01", Tracestate="a=1")
        await here.finish()
        (server,) = here.collector.named("GET")
        assert server.trace_id.hex() != TRACE
        assert here.asked[0].headers.getall("traceparent")[0].startswith(f"00-{server.trace_id.hex()}-")
        assert "tracestate" not in here.asked[0].headers


async def test_an_error_is_an_error_in_its_spans(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        assert (await here.get("/broken")).status == 503
        await here.finish()
        (server,) = here.collector.named("GET")
        assert (server.status.code, told(server)["http.response.status_code"]) == (ERROR, 503)


@pytest.mark.parametrize("follow", [False, True])
async def test_what_is_not_drawn_passes_untouched_unless_clients_are_followed(tmp_path: Path, follow: bool) -> None:
    async with running(tmp_path, sample=0.0, follow_clients=follow) as here:
        sent = f"00-{TRACE}-{SPAN}-01"
        await here.get("/page", Traceparent=sent)
        await here.get("/other", Traceparent=f"00-{TRACE}-{SPAN}-00")
        await here.get("/third")
        await here.finish()
        assert len(here.collector.named("GET")) == (1 if follow else 0)
        assert (here.asked[0].headers["traceparent"] == sent) is not follow
        assert here.asked[1].headers["traceparent"] == f"00-{TRACE}-{SPAN}-00"
        assert "traceparent" not in here.asked[2].headers


async def test_a_generators_call_tells_its_cpu_time_and_the_guest_learns_nothing(tmp_path: Path) -> None:
    (tmp_path / "probe.c").write_text(PROGRAM)
    compile_c([tmp_path / "probe.c"], tmp_path / "probe")
    bundle = tar({"generator.yaml": MANIFEST, "probe": (tmp_path / "probe").read_bytes()})
    async with running(tmp_path) as here:
        for path, body in (("versions", {"data": bundle}), ("activate", {"json": {"version": 1}})):
            address = f"{here.control}/v1/sites/shop/generators/probe/{path}"
            async with here.http.post(address, headers={"Authorization": f"Bearer {here.token}"}, **body) as response:
                assert response.status < 300, await response.text()
        async with here.http.get(f"{here.url}/g/a", headers={"Host": "shop.test"}) as response:
            assert await response.text() == "[]"
        wild = await here.get("/g/wild", Traceparent=f"00-{TRACE}-{SPAN}-01")
        assert wild.status == 502
        await here.finish()
        good, bad = sorted(here.collector.named("generator"), key=lambda span: span.start_time_unix_nano)
        assert told(good)["edgecache.generator"] == "probe"
        assert told(good)["edgecache.generator.cpu_ns"] > 0
        assert told(good)["edgecache.detail"] == "shop/probe@1"
        assert (bad.status.code, bad.trace_id.hex()) == (ERROR, TRACE)
        (origin,) = here.collector.named("origin")
        assert origin.trace_id == good.trace_id
        assert here.asked[0].path == "/from-guest"


async def test_a_collector_that_refuses_costs_nothing_but_spans(tmp_path: Path) -> None:
    async with running(tmp_path, timeout_seconds=0.5) as here:
        here.collector.status = 400
        for _ in range(3):
            assert (await here.get("/page")).status == 200
        path = path_of(here.edge)
        assert path.exporter is not None
        exporter = path.exporter
        async with asyncio.timeout(20):
            while not exporter.dropped:
                await asyncio.sleep(0.05)
        await here.finish()
        assert (exporter.sent, exporter.dropped) == (0, len(here.collector.spans))
