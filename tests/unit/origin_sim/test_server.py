from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from origin_sim import proof
from origin_sim.__main__ import main
from origin_sim.faults import Breakage
from origin_sim.server import Shop


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop() as running:
        yield running


@pytest.fixture
async def client(shop: Shop) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(shop.url, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


async def raw(shop: Shop, target: str, method: str = "GET") -> bytes:
    """Everything that comes until the end of the connection."""
    host, _, port = shop.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(20):
            return await reader.read(-1)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("target", "status", "kind", "cache_control"),
    [
        ("/", 200, "text/html", "public, max-age=60"),
        ("/products", 200, "text/html", "public, max-age=60"),
        ("/products/fjord-kettle", 200, "text/html", "public, max-age=60"),
        ("/products/none", 404, "text/html", "public, max-age=10"),
        ("/search?q=lamp", 200, "text/html", "public, max-age=10"),
        ("/images/1.svg", 200, "image/svg+xml", "public, max-age=86400, immutable"),
        ("/images/1.png", 200, "image/png", "public, max-age=86400, immutable"),
        ("/images/x.png", 404, "text/html", "public, max-age=10"),
        ("/style.css", 200, "text/css", "public, max-age=86400, immutable"),
        ("/cart", 200, "text/html", "private, no-store"),
        ("/account", 401, "text/html", "no-store"),
        ("/clock", 200, "text/html", "no-store"),
        ("/today", 200, "text/html", "public, max-age=60"),
        ("/fragments/offers", 200, "text/html", "public, max-age=10"),
        ("/fragments/greeting", 200, "text/html", "public, max-age=60"),
        ("/fragments/now", 200, "text/html", "no-store"),
        ("/fragments/none", 404, "text/html", "public, max-age=10"),
        ("/redirect", 302, "text/html", "public, max-age=60"),
        ("/api/products", 200, "application/json", "public, max-age=30, stale-while-revalidate=30, stale-if-error=300"),
        ("/api/products/7", 200, "application/json", "public, max-age=30, stale-while-revalidate=30, stale-if-error=300"),
        ("/api/products/999", 404, "application/problem+json", "no-store"),
        ("/api/search?q=lamp", 200, "application/json", "public, max-age=30, stale-while-revalidate=30, stale-if-error=300"),
        ("/api/none", 404, "application/problem+json", "no-store"),
        ("/echo", 200, "application/json", "no-store"),
        ("/none", 404, "text/html", "public, max-age=10"),
    ],
)
async def test_pages(client: aiohttp.ClientSession, target: str, status: int, kind: str, cache_control: str) -> None:
    async with client.get(target, allow_redirects=False) as response:
        body = await response.read()
        assert (response.status, response.content_type, response.headers["Cache-Control"]) == (status, kind, cache_control)
        assert proof.mismatch(target, response.headers, body) is None


async def test_json_varies_by_language_and_html_is_stable(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/products/1", headers={"Accept-Language": "de"}) as response:
        assert (response.headers["Vary"], response.headers["Content-Language"]) == ("Accept-Language", "de")
        assert (await response.json())["name"] == "Fjord Wasserkocher"
    bodies = set()
    for _ in range(2):
        async with client.get("/products") as response:
            bodies.add(await response.read())
    assert len(bodies) == 1


async def test_conditional_requests(client: aiohttp.ClientSession) -> None:
    async with client.get("/products") as response:
        etag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    for headers, status in [
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": f'"x", W/{etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"', "If-Modified-Since": modified}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": "Tue, 31 Dec 2024 00:00:00 GMT"}, 200),
    ]:
        async with client.get("/products", headers=headers) as response:
            assert response.status == status, headers
            assert bool(await response.read()) == (status == 200)
    async with client.get("/products?_no_validators=1", headers={"If-None-Match": "*"}) as response:
        assert response.status == 200
        assert "ETag" not in response.headers


async def test_a_review_changes_the_page_and_reset_takes_it_back(client: aiohttp.ClientSession) -> None:
    async with client.post("/api/products/1/reviews", data=b"nice") as response:
        assert (response.status, response.headers["Location"]) == (201, "/api/products/1")
    async with client.get("/api/products/1") as response:
        assert (await response.json())["reviews"] == 1
    async with client.post("/_admin/reset") as response:
        assert response.status == 200
    async with client.get("/api/products/1") as response:
        assert (await response.json())["reviews"] == 0


async def test_uploads_are_hashed_and_other_methods_refused(client: aiohttp.ClientSession) -> None:
    async with client.put("/upload", data=b"x" * 200_000) as response:
        assert (await response.json())["bytes"] == 200_000
    async with client.delete("/products") as response:
        assert response.status == 405
    async with client.options("/products") as response:
        assert (response.status, response.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    async with client.head("/products") as head, client.get("/products") as get:
        assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(await get.read()))


async def test_cookies_and_credentials(client: aiohttp.ClientSession) -> None:
    async with client.get("/cart", headers={"Cookie": "session=abc"}) as response:
        assert response.headers["Set-Cookie"].startswith("session=abc;")
        assert b"<code>abc</code>" in await response.read()
    async with client.get("/account", headers={"Authorization": "Bearer secret"}) as response:
        body = await response.read()
        assert response.status == 200
        assert b"Bearer" in body
        assert b"secret" not in body


@pytest.mark.parametrize("query", ["_size=3MiB", "_size=3MiB&_chunked=1", "_size=0", "_size=5000&_drip=1ms&_drip_bytes=1KiB"])
async def test_bodies_of_any_size(client: aiohttp.ClientSession, query: str) -> None:
    target = f"/file?{query}"
    async with client.get(target) as response:
        body = await response.read()
        assert proof.mismatch(target, response.headers, body) is None
        assert ("Content-Length" in response.headers) == ("chunked" not in query)
        assert body == b"".join(proof.filler(target, len(body)))


async def test_knobs_on_the_head(client: aiohttp.ClientSession) -> None:
    async with client.get("/products?_status=503&_cc=max-age%3D5&_header=X-A:1&_header=X-B:2&_delay=1ms") as response:
        assert (response.status, response.headers["Cache-Control"], response.headers["X-A"]) == (503, "max-age=5", "1")
        assert "ETag" not in response.headers
    async with client.get("/products?_cc=") as response:
        assert "Cache-Control" not in response.headers
    async with client.get("/products?_gzip=1", headers={"Accept-Encoding": "gzip"}) as response:
        assert (response.headers["Content-Encoding"], response.headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert (await response.read())[:2] == b"\x1f\x8b"
    async with client.get("/products?_dealy=1s") as response:
        assert response.status == 400
        assert "did you mean _delay" in (await response.json(content_type=None))["detail"]


async def test_errors_come_at_their_rate(client: aiohttp.ClientSession) -> None:
    statuses = []
    for _ in range(10):
        async with client.get("/products?_error_rate=0.3") as response:
            statuses.append(response.status)
    assert statuses.count(500) == 3


async def test_a_reset_in_the_middle_of_a_body(client: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.ClientError):
        async with client.get("/file?_size=1MiB&_reset_at=1000") as response:
            assert response.status == 200
            await response.read()


async def test_a_stall_in_the_middle_of_a_body(client: aiohttp.ClientSession) -> None:
    async with client.get("/file?_size=1MiB&_stall_at=100") as response:
        assert len(await response.content.readexactly(100)) == 100
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await response.content.read(1)


@pytest.mark.parametrize(("lie", "said", "sent"), [("%2B10", 110, 100), ("-10", 90, 100)])
async def test_a_content_length_that_lies(shop: Shop, lie: str, said: int, sent: int) -> None:
    head, _, body = (await raw(shop, f"/file?_size=100&_cl_lie={lie}")).partition(b"\r\n\r\n")
    assert f"Content-Length: {said}".encode() in head
    assert len(body) == sent


@pytest.mark.parametrize("breakage", [breakage for breakage in Breakage if breakage is not Breakage.ENDLESS_HEAD])
async def test_broken_http(shop: Shop, breakage: Breakage) -> None:
    data = await raw(shop, f"/?_broken={breakage}")
    assert (data == b"") == (breakage is Breakage.NO_ANSWER)


async def test_an_endless_head_ends_when_the_reader_leaves(shop: Shop, client: aiohttp.ClientSession) -> None:
    host, _, port = shop.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /?_broken=endless-head HTTP/1.1\r\nHost: shop\r\n\r\n")
    assert (await reader.readexactly(100_000)).startswith(b"HTTP/1.1 200 OK\r\nX-Line-0: more\r\n")
    writer.close()
    async with client.get("/") as response:
        assert response.status == 200


async def test_admin_faults_apply_to_a_prefix(client: aiohttp.ClientSession) -> None:
    wanted = {"prefix": "/api", "faults": {"status": 503, "header": ["X-A:1", "X-B:2"], "chunked": True}, "times": 1}
    async with client.post("/_admin/faults", json=wanted) as response:
        assert (await response.json())["faults"][0]["prefix"] == "/api"
    for status in (503, 200):
        async with client.get("/api/products") as response:
            assert response.status == status
    async with client.post("/_admin/faults", json={"faults": {"status": 418}}) as response:
        assert response.status == 200
    async with client.get("/anything") as response:
        assert response.status == 418
    async with client.delete("/_admin/faults") as response:
        assert (await response.json()) == {"faults": []}
    async with client.get("/_admin/requests") as response:
        assert await response.json() == {"total": 3, "paths": {"/api/products": 2, "/anything": 1}}


@pytest.mark.parametrize(
    "body", ["", "[]", '{"faults": 1}', '{"faults": {"no": 1}}', '{"prefix": 1}', '{"times": "x"}', "[" * 50_000]
)
async def test_admin_refuses_what_it_does_not_understand(client: aiohttp.ClientSession, body: str) -> None:
    async with client.post("/_admin/faults", data=body) as response:
        assert response.status == 400
        assert "send {" in json.loads(await response.read())["detail"]


async def test_the_program_says_when_it_is_ready_and_stops_when_told() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "origin_sim",
        "--port",
        "0",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = (await process.stdout.readline()).decode()
        url = line.removeprefix("origin_sim: ready on ").strip()
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--port", str(taken.getsockname()[1])]) == 1
    assert capsys.readouterr().err.endswith("Address already in use; try another --port\n")


def test_a_port_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--port", "70000"])
    assert "must be a port from 0 to 65535" in capsys.readouterr().err
