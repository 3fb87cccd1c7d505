"""HTTPS on real sockets, with certificates of a test authority: names, schemes, reloading, and broken handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from cryptography import x509

from demo.processes import started
from edgecache.config import load
from edgecache.policy.purging import Purge
from edgecache.serve.accepting.certificates import CertificateFiles, Certificates
from edgecache.serve.accepting.listener import Listener
from edgecache.serve.settings import ServeSettings
from edgecache.yamlform import FormError
from tests.integration.proxy_support import Edge, Origin, edge_for, origin_of

READY = r"edgecache: serving on http://\S+ and https://127.0.0.1:(\d+), control on"


class Authority:
    """Certificates of a test authority, as files, and clients that trust it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA()

    def files(self, *hosts: str, at: str = "", names: tuple[str, ...] = ()) -> CertificateFiles:
        """A certificate for these hosts, written as `at`."""
        issued = self._ca.issue_cert(*(names or hosts))
        chain, key = (self._directory / f"{at or hosts[0].strip('*.')}.{part}.pem" for part in ("chain", "key"))
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return CertificateFiles(hosts, chain, key)

    def client(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        context.set_alpn_protocols(protocols or ("http/1.1",))
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    yield Authority(tmp_path)


@contextlib.asynccontextmanager
async def serving(
    *files: CertificateFiles, settings: ServeSettings | None = None
) -> AsyncIterator[tuple[Edge, Origin, Certificates, tuple[str, int]]]:
    async def answer(request: web.BaseRequest) -> web.Response:
        text = f"{request.headers['X-Forwarded-Proto']} {request.headers['Forwarded']}"
        return web.Response(text=text, headers={"Cache-Control": "max-age=60"})

    certificates = Certificates(files)
    async with origin_of(answer) as origin, edge_for(origin.url, settings=settings) as edge:
        listener = Listener(edge.pipeline, certificates)
        address = await listener.start()
        try:
            yield edge, origin, certificates, address
        finally:
            await listener.close()


def names_of(certificate: bytes) -> list[str]:
    found = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return list(found.value.get_values_for_type(x509.DNSName))


async def ask(address: tuple[str, int], client: ssl.SSLContext, name: str, head: str) -> tuple[bytes, ssl.SSLObject]:
    """Everything that is said to one request, and the TLS session."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address, ssl=client, server_hostname=name)
        writer.write(head.encode())
        said = await reader.read(-1)
        session = writer.get_extra_info("ssl_object")
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
    return said, session


def get(host: str, more: str = "Connection: close\r\n") -> str:
    return f"GET /a HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"


async def test_the_name_asked_for_chooses_the_certificate(authority: Authority) -> None:
    files = [authority.files("shop.test"), authority.files("*.shop.test", at="below"), authority.files("blog.test")]
    async with serving(*files) as (_, _, _, address):
        for name, shown in (("shop.test", "shop.test"), ("a.shop.test", "*.shop.test"), ("blog.test", "blog.test")):
            said, session = await ask(address, authority.client(), name, get(name))
            assert said.startswith(b"HTTP/1.1 200 OK\r\n")
            certificate = session.getpeercert(binary_form=True)
            assert certificate is not None and names_of(certificate) == [shown]
            assert session.selected_alpn_protocol() == "http/1.1"
            assert session.version() in ("TLSv1.2", "TLSv1.3")
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(address, authority.client(), "unknown.test", get("unknown.test"))


@pytest.mark.parametrize("http2", [True, False])
async def test_http_2_is_offered_unless_it_is_turned_off(authority: Authority, http2: bool) -> None:
    async with edge_for() as edge:
        listener = Listener(edge.pipeline, Certificates([authority.files("shop.test")], http2=http2))
        address = await listener.start()
        for offered in (("h2", "http/1.1"), ("http/1.1", "h2"), ("h2",), ("http/1.1",)):
            client = authority.client(*offered)
            _, writer = await asyncio.open_connection(*address, ssl=client, server_hostname="shop.test")
            expected = "h2" if http2 and "h2" in offered else "http/1.1" if "http/1.1" in offered else None
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == expected
            writer.transport.abort()
        await listener.close()


async def in_turn(address: tuple[str, int], host: str, client: ssl.SSLContext | None = None) -> list[bytes]:
    """The bodies of three requests of the same bytes on one connection, each sent when the last was answered."""
    named = {"ssl": client, "server_hostname": "shop.test"} if client else {}
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address, **named)  # type: ignore[arg-type]
        bodies: list[bytes] = []
        for _ in range(3):
            writer.write(get(host, "").encode())
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"Content-Length: (\d+)", head)
            bodies.append(await reader.readexactly(int(length)))
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
    return bodies


async def test_sources_learn_the_scheme_and_the_two_schemes_share_no_entry(authority: Authority) -> None:
    async with serving(authority.files("shop.test")) as (edge, origin, _, address):
        for _ in range(2):
            plain = await in_turn(edge.address, "shop.test")
            secure = await in_turn(address, "shop.test", authority.client())
            assert set(plain) == {b"http for=127.0.0.1;host=shop.test;proto=http"}
            assert set(secure) == {b"https for=127.0.0.1;host=shop.test;proto=https"}
        assert origin.count == 2
        assert len(edge.pipeline.fast_lane) == len(edge.pipeline.secure_lane) == 1
        assert {record.uri for record in edge.records} == {"http://shop.test/a", "https://shop.test/a"}
        await in_turn(address, "shop.test:443", authority.client())
        assert origin.count == 2
        await in_turn(address, "shop.test:80", authority.client())
        assert origin.count == 3
        for url, count in (("http://shop.test:443/a", 0), ("https://shop.test:443/a", 1), ("http://shop.test:80/a", 1)):
            assert await edge.pipeline.purge(Purge(urls=(url,))) == count


async def test_renewed_certificates_are_shown_after_a_reload_and_open_connections_go_on(authority: Authority) -> None:
    async with serving(authority.files("shop.test")) as (_, _, certificates, address):
        reader, writer = await asyncio.open_connection(*address, ssl=authority.client(), server_hostname="shop.test")
        before = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        authority.files("shop.test")
        certificates.reload()
        _, session = await ask(address, authority.client(), "shop.test", get("shop.test"))
        assert session.getpeercert(binary_form=True) != before
        writer.write(get("shop.test").encode())
        async with asyncio.timeout(10):
            assert (await reader.read(-1)).startswith(b"HTTP/1.1 200")
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def test_a_large_body_comes_whole_and_a_body_that_breaks_off_does_not(authority: Authority) -> None:
    big = bytes(range(256)) * 8192

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/a":
            return web.Response(body=big, headers={"Cache-Control": "max-age=60"})
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)  # type: ignore[arg-type]
        await response.write(b"x" * 10)
        request.transport.abort()  # type: ignore[union-attr]
        return response

    async with origin_of(answer) as origin, edge_for(origin.url) as edge:
        listener = Listener(edge.pipeline, Certificates([authority.files("shop.test")]))
        address = await listener.start()
        for _ in range(2):
            said, _ = await ask(address, authority.client(), "shop.test", get("shop.test"))
            assert said.partition(b"\r\n\r\n")[2] == big
        broken = get("shop.test").replace("/a", "/broken")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            said, _ = await ask(address, authority.client(), "shop.test", broken)
            assert len(said.partition(b"\r\n\r\n")[2]) < 1000
        await listener.close()


async def test_what_is_no_handshake_or_an_old_one_ends_the_connection_alone(authority: Authority) -> None:
    async with serving(authority.files("shop.test"), settings=ServeSettings(head_timeout=0.3)) as (_, origin, _, address):
        for sent in (b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100, b""):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    assert b"HTTP/" not in await reader.read(-1)
            writer.close()
        old = authority.client()
        with pytest.warns(DeprecationWarning):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(address, old, "shop.test", get("shop.test"))
        assert origin.count == 0
        said, _ = await ask(address, authority.client(), "shop.test", get("shop.test"))
        assert said.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_whole_edge_serves_https_and_reads_certificates_again_on_sighup(
    tmp_path: Path, authority: Authority, processes: int
) -> None:
    files = authority.files("shop.test")
    written = tmp_path / "edge.yaml"
    written.write_text(
        f"listen: 127.0.0.1:0\nstate: state\ncontrol: {{listen: '127.0.0.1:0'}}\nserve: {{processes: {processes}}}\n"
        f"tls:\n  listen: 127.0.0.1:0\n  certificates: [{{hosts: [shop.test], chain: {files.chain}, key: {files.key}}}]\n"
    )

    def shown(port: int) -> bytes | None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            authority.client().wrap_socket(plain, server_hostname="shop.test") as secure,
        ):
            secure.sendall(get("shop.test").encode())
            assert secure.recv(4096).startswith(b"HTTP/1.1 421 ")
            return secure.getpeercert(binary_form=True)

    with started("the edge", ["-m", "edgecache", "serve", str(written)], READY, tmp_path / "log") as edge:
        port = int(edge.ready[1])
        before = shown(port)
        files.key.write_text("broken")
        edge.process.send_signal(signal.SIGHUP)
        assert shown(port) == before
        authority.files("shop.test")
        edge.process.send_signal(signal.SIGHUP)
        # Each process reads them in its own time.
        new = 0
        for _ in range(300):
            new = new + 1 if shown(port) != before else 0
            if new == 20:
                break
        assert new == 20
        edge.process.send_signal(signal.SIGTERM)
        assert edge.process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ("{listen: '127.0.0.1:1'}", "certificates"),
        ("{listen: '127.0.0.1:1', certificates: []}", "must hold"),
        ("{listen: '127.0.0.1:8080', certificates: [GOOD]}", "another listener"),
        ("{listen: '127.0.0.1:1', certificates: [{hosts: [a.test], chain: absent.pem, key: absent.pem}]}", "cannot be read"),
        ("{listen: '127.0.0.1:1', certificates: [{hosts: [a.test], chain: KEY, key: KEY}]}", "cannot load the TLS certificate"),
        ("{listen: '127.0.0.1:1', certificates: [{hosts: ['a:1'], chain: KEY, key: KEY}]}", "without a port"),
        ("{listen: '127.0.0.1:1', certificates: [GOOD], http2: perhaps}", "must be true or false"),
        ("{listen: '127.0.0.1:1', certificates: [GOOD, GOOD]}", "shop.test has a certificate already"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, authority: Authority, tls: str, said: str) -> None:
    files = authority.files("shop.test")
    good = f"{{hosts: [shop.test], chain: {files.chain}, key: {files.key}}}"
    written = tmp_path / "edge.yaml"
    written.write_text("tls: " + tls.replace("GOOD", good).replace("KEY", str(files.key)) + "\n")
    with pytest.raises(FormError, match=said) as caught:
        load(written)
    assert str(caught.value).startswith(f"{written}:")


async def test_handshakes_count_as_connections(authority: Authority) -> None:
    """Else who begins them and says no more holds as many descriptors as there are."""
    settings = ServeSettings(max_connections=5)
    async with serving(authority.files("a.test"), settings=settings) as (_, _, _, address), asyncio.TaskGroup() as group:
        idle = [await asyncio.open_connection(*address) for _ in range(20)]
        ended = [group.create_task(reader.read()) for reader, _ in idle]
        async with asyncio.timeout(5):
            while sum(task.done() for task in ended) < 15:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert [task.done() for task in ended] == [True] * 15 + [False] * 5, "the oldest go"
        said, _ = await ask(address, authority.client(), "a.test", get("a.test"))
        assert b"200 OK" in said, "who does not dally has a place"
        for _, writer in idle:
            writer.close()


async def test_a_listener_closes_though_handshakes_are_under_way(authority: Authority) -> None:
    async with serving(authority.files("a.test")) as (_, _, _, address):
        reader, writer = await asyncio.open_connection(*address)
        await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
