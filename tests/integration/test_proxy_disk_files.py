"""Bodies on disk on their way to clients as files: by the kernel, over TLS, pipelined, slowly, and while their segment goes."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from edgecache.serve.accepting.certificates import CertificateFiles, Certificates
from edgecache.serve.accepting.listener import Listener
from edgecache.serve.settings import ServeSettings
from tests.integration.disk_support import MIB, RULE, answer, content, settings, written
from tests.integration.proxy_support import edge_for, origin_of


async def test_a_client_that_takes_nothing_of_a_file_is_cut_off(tmp_path: Path) -> None:
    serve = ServeSettings(write_timeout=0.3)
    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, disk=settings(tmp_path), rule=RULE, settings=serve) as edge,
    ):
        await edge.fetch("/20000000/a", headers={"Host": "a.test"})
        await written(edge, 1)
        reader, writer = await edge.connect()
        writer.write(b"GET /20000000/a HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await reader.readexactly(1000)
        async with asyncio.timeout(10):
            while not (cut := [record for record in edge.records if record.status == 499 or record.truncated]):
                await asyncio.sleep(0.05)
        assert cut[0].uri.endswith("/20000000/a")


async def test_a_file_is_sent_while_its_segment_is_reclaimed(tmp_path: Path) -> None:
    path, host = "/6000000/a", {"Host": "a.test"}
    async with (
        origin_of(answer) as origin,
        edge_for(origin.url, disk=settings(tmp_path, 16 * MIB), rule=RULE, capacity_bytes=MIB) as edge,
    ):
        await edge.fetch(path, headers=host)
        await written(edge, 1)
        reader, writer = await edge.connect()
        writer.write(b"GET /6000000/a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        received = await reader.readexactly(1000)
        assert edge.tier is not None
        for n in range(40):
            await edge.fetch(f"/1000000/{n}", headers=host)
        for segment in (tmp_path / "cache").glob("*.seg"):
            segment.unlink(missing_ok=True)
        received += await reader.read(-1)
        assert received.partition(b"\r\n\r\n")[2] == content(path, 6_000_000)


async def test_files_go_over_pipelined_connections_in_order(tmp_path: Path) -> None:
    host = {"Host": "a.test"}
    paths = ["/100/small", "/5000000/long", "/0/empty", "/70000/middle", "/5000000/long"]
    async with origin_of(answer) as origin, edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
        for path in paths:
            await edge.fetch(path, headers=host)
        await written(edge, 4)
        request = b"".join(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % path.encode() for path in paths)
        got = await edge.raw(request + b"GET /100/small HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        for path in [*paths, "/100/small"]:
            head, _, got = got.partition(b"\r\n\r\n")
            body = content(path, int(path.split("/")[1]))
            assert head.startswith(b"HTTP/1.1 200 OK") and got.startswith(body)
            got = got[len(body) :]
        assert got == b""


async def _file_scenario(path: Path) -> None:
    """Whole, in part, to a slow client, and to one that leaves."""
    target, host = "/20000000/a", {"Host": "a.test"}
    whole = content(target, 20_000_000)
    request = b"GET /20000000/a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
    async with origin_of(answer) as origin, edge_for(origin.url, disk=settings(path), rule=RULE) as edge:
        await edge.fetch(target, headers=host)
        await written(edge, 1)
        assert (await edge.fetch(target, headers=host)).body == whole
        part = await edge.fetch(target, headers={**host, "Range": "bytes=-5000001"})
        assert part.status == 206 and part.body == whole[-5_000_001:]
        reader, writer = await edge.connect()
        writer.write(request)
        slow = bytearray()
        while chunk := await reader.read(700_000):
            slow += chunk
            await asyncio.sleep(0.001)
        assert bytes(slow).partition(b"\r\n\r\n")[2] == whole
        _, leaving = await edge.connect()
        leaving.write(request)
        await asyncio.sleep(0.05)
        leaving.transport.abort()
        async with asyncio.timeout(10):
            while len(edge.records) < 5:
                await asyncio.sleep(0.01)
        assert edge.records[-1].truncated
    assert origin.count == 1


async def test_files_are_sent_by_the_kernel(tmp_path: Path) -> None:
    await _file_scenario(tmp_path)


def test_files_are_sent_by_the_kernel_under_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_file_scenario(tmp_path))


async def test_files_go_over_tls_too(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("a.test")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with origin_of(answer) as origin, edge_for(origin.url, disk=settings(tmp_path), rule=RULE) as edge:
        listener = Listener(edge.pipeline, Certificates((CertificateFiles(("a.test",), chain, key),)))
        address = await listener.start("127.0.0.1", 0)
        for expected in ("fwd=uri-miss", "hit"):
            reader, writer = await asyncio.open_connection(*address, ssl=trust, server_hostname="a.test")
            writer.write(b"GET /6000000/a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            writer.close()
            assert expected in head.decode() and body == content("/6000000/a", 6_000_000)
            await written(edge, 1)
        await listener.close()
    assert origin.count == 1
