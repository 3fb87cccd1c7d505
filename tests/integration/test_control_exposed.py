"""The control API beyond loopback: TLS, handshakes that only begin, and who may scrape the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import trustme

from edgecache.control.api.services import Rooms
from edgecache.control.service import Control
from edgecache.control.settings import ControlSettings
from edgecache.sites import SiteTable
from tests.control_support import TrialSandbox, purge_nothing, running


@contextlib.asynccontextmanager
async def far(directory: Path, **more: object) -> AsyncIterator[Callable[..., Awaitable[tuple[int, str]]]]:
    """A Control that listens on all addresses, over TLS, with metrics; it is asked with `await ask(path, token)`."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = {"tls_certificate": chain, "tls_key": key, "port": 0, **more}
    settings = ControlSettings(state_dir=directory / "state", host="0.0.0.0", **files)  # type: ignore[arg-type]
    control = Control(settings, table=SiteTable(), sandbox=TrialSandbox(), purge=purge_nothing, rooms=Rooms(metrics=figures))
    await control.load()
    await control.listen()
    try:
        async with aiohttp.ClientSession() as session:

            async def ask(path: str, token: str = "", body: object = None) -> tuple[int, str]:
                sent = {"Authorization": f"Bearer {token}"} if token else {}
                url = f"https://127.0.0.1:{control.address[1]}{path}"
                async with session.request("POST" if body else "GET", url, headers=sent, json=body, ssl=trusting) as response:
                    return response.status, await response.text()

            yield ask
    finally:
        await control.close()


async def figures(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
    return aiohttp.web.Response(text="figures")


async def test_tls_is_spoken_where_it_is_set(tmp_path: Path) -> None:
    async with far(tmp_path) as ask:
        assert (await ask("/v1/healthz"))[0] == 200


async def test_handshakes_that_only_begin_hold_nobody_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with far(tmp_path, port=port, connections=4) as ask, asyncio.TaskGroup() as group:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        ended = [group.create_task(reader.read()) for reader, _ in idle]
        async with asyncio.timeout(5):
            while sum(task.done() for task in ended) < 8:
                await asyncio.sleep(0.01)
        assert (await ask("/v1/healthz"))[0] == 200
        for _, writer in idle:
            writer.close()


async def test_metrics_on_loopback_are_for_anybody_there(tmp_path: Path) -> None:
    settings = ControlSettings(state_dir=tmp_path, port=0)
    control = Control(settings, table=SiteTable(), sandbox=TrialSandbox(), purge=purge_nothing, rooms=Rooms(metrics=figures))
    await control.load()
    await control.listen()
    try:
        host, port = control.address
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as response:
            assert await response.text() == "figures"
    finally:
        await control.close()


async def test_metrics_elsewhere_are_for_who_may_read_all_sites(tmp_path: Path) -> None:
    async with far(tmp_path) as ask:
        operator = (tmp_path / "state" / "operator.token").read_text().strip()
        site = {"name": "shop", "hosts": ["shop.test"], "origins": ["http://127.0.0.1:1"]}
        assert (await ask("/v1/sites", operator, site))[0] == 201
        made = [await ask("/v1/tokens", operator, form) for form in ({"verbs": ["read"]}, {"site": "shop", "verbs": ["read"]})]
        reader, owner = (json.loads(text)["token"] for _, text in made)
        assert (await ask("/metrics"))[0] == 401
        assert (await ask("/metrics", "ec_000000000000_" + "A" * 43))[0] == 401
        assert (await ask("/metrics", owner))[0] == 403
        assert await ask("/metrics", reader) == (200, "figures")
        assert await ask("/metrics", operator) == (200, "figures")


async def test_metrics_elsewhere_are_public_where_the_operator_says_so(tmp_path: Path) -> None:
    async with far(tmp_path, metrics_public=True) as ask:
        assert await ask("/metrics") == (200, "figures")
        assert (await ask("/v1/status"))[0] == 401


async def test_there_are_no_metrics_where_nobody_gives_them(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        assert (await api.call("GET", "/metrics")).code == "not-found"
