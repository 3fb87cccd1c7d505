"""TLS to origins on real sockets: a site's own authority, name and certificate, and what is refused without them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from edgecache.policy.upstream import HealthRule, TlsRule, UpstreamRule
from tests.integration.proxy_support import Edge, edge_for, listening, plain, until


@dataclass
class Secure:
    """An HTTPS origin, and files of the authority that vouches for it."""

    url: str
    ca: str
    certificate: str
    key: str
    names: list[str]
    """What clients sent as SNI."""
    clients: list[object]
    """The subjects of their certificates."""


@contextlib.asynccontextmanager
async def secure_origin(directory: Path, *names: str, ask: bool = False) -> AsyncIterator[Secure]:
    """An origin with a certificate for `names`. `ask`: it lets in only clients with one of the same authority."""
    authority = trustme.CA()
    files = {part: directory / f"{part}.pem" for part in ("ca", "certificate", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    client = authority.issue_cert("client@edge.test")
    files["certificate"].write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
    client.private_key_pem.write_to_path(files["key"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    if ask:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    found = Secure("", *(str(files[part]) for part in ("ca", "certificate", "key")), [], [])

    def named(_socket: ssl.SSLObject, name: str, _context: ssl.SSLContext) -> None:
        found.names.append(name)

    context.sni_callback = named
    respond = plain(b"secret", cache_control="no-store")

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert")
        found.clients.append(certificate and certificate["subject"])
        return await respond(request)

    async with listening(web.Server(answer, access_log=None), context) as port:
        found.url = f"https://127.0.0.1:{port}"
        yield found


@contextlib.asynccontextmanager
async def edge_with(origin: Secure, **said: object) -> AsyncIterator[Edge]:
    async with edge_for(origin.url, upstream_rule=UpstreamRule(tls=TlsRule(**said))) as edge:  # type: ignore[arg-type]
        yield edge


async def test_an_origin_of_the_sites_own_authority_is_believed(tmp_path: Path) -> None:
    async with secure_origin(tmp_path, "127.0.0.1") as origin, edge_with(origin, ca=origin.ca) as edge:
        assert (await edge.fetch("/")).body == b"secret"


async def test_an_origin_of_an_unknown_authority_is_not_and_the_answer_says_why(tmp_path: Path) -> None:
    async with secure_origin(tmp_path, "127.0.0.1") as origin, edge_with(origin) as edge:
        got = await edge.fetch("/")
        assert got.status == 502
        assert "tls" in got.cache
        assert origin.clients == []


async def test_a_certificate_for_another_name_is_not_believed(tmp_path: Path) -> None:
    async with secure_origin(tmp_path, "elsewhere.test") as origin, edge_with(origin, ca=origin.ca) as edge:
        assert (await edge.fetch("/")).status == 502


async def test_the_name_that_a_site_gives_is_sent_and_looked_for(tmp_path: Path) -> None:
    async with secure_origin(tmp_path, "origin.internal") as origin:
        async with edge_with(origin, ca=origin.ca, server_name="origin.internal") as edge:
            assert (await edge.fetch("/")).body == b"secret"
        assert origin.names == ["origin.internal"]
        async with edge_with(origin, ca=origin.ca, server_name="another.internal") as edge:
            assert (await edge.fetch("/")).status == 502


async def test_an_origin_that_wants_to_know_the_edge_is_shown_its_certificate(tmp_path: Path) -> None:
    async with secure_origin(tmp_path, "127.0.0.1", ask=True) as origin:
        async with edge_with(origin, ca=origin.ca) as edge:
            assert (await edge.fetch("/")).status == 502
        async with edge_with(origin, ca=origin.ca, certificate=origin.certificate, key=origin.key) as edge:
            assert (await edge.fetch("/")).body == b"secret"
        assert len(origin.clients) == 1
        assert origin.clients[0]


async def test_not_verifying_must_be_said_and_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with secure_origin(tmp_path, "127.0.0.1") as origin, edge_with(origin, insecure_skip_verify=True) as edge:
            assert (await edge.fetch("/")).body == b"secret"
    assert "insecure_skip_verify" in caplog.text


async def test_files_that_vanish_fail_by_name_and_are_read_again_when_told(tmp_path: Path) -> None:
    async with secure_origin(tmp_path, "127.0.0.1") as origin, edge_with(origin, ca=origin.ca) as edge:
        pem = Path(origin.ca).read_bytes()
        Path(origin.ca).unlink()
        assert "tls" in (await edge.fetch("/")).cache
        Path(origin.ca).write_bytes(pem)
        assert (await edge.fetch("/")).body == b"secret"


async def test_sites_with_other_trust_do_not_share_connections(tmp_path: Path) -> None:
    async with secure_origin(tmp_path, "127.0.0.1") as origin:
        rule = UpstreamRule(tls=TlsRule(ca=origin.ca))
        async with edge_for(origin.url, upstream_rule=rule, hosts=("a.test",)) as edge:
            (site,) = edge.sites.snapshot.sites
            edge.sites.replace([site, dataclasses.replace(site, name="b", hosts=("b.test",), upstream=UpstreamRule())])
            statuses = [(await edge.fetch("/", headers={"Host": host})).status for host in ("a.test", "b.test", "a.test")]
            assert statuses == [200, 502, 200]


async def test_health_checks_verify_too(tmp_path: Path) -> None:
    health = HealthRule(path="/", interval=5.0, rise=1, fall=1)
    async with secure_origin(tmp_path, "127.0.0.1") as origin:
        for tls, state in ((TlsRule(ca=origin.ca), "healthy"), (TlsRule(), "down")):
            async with edge_for(origin.url, upstream_rule=UpstreamRule(tls=tls, health=health)) as edge:
                await until(lambda: edge.ticks.waiting == 1)
                edge.ticks.advance(10.0)
                await until(lambda: edge.ticks.waiting == 0)
                await until(lambda: edge.ticks.waiting == 1)
                assert [row.state for row in edge.upstreams.figures()] == [state]
