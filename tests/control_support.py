"""What the control API's tests share: bundles made by tarfile, programs of a few instructions, a Control on a real socket."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import msgspec

from edgecache.control.api.services import Rooms
from edgecache.control.service import Control
from edgecache.control.settings import ControlSettings
from edgecache.policy.purging import Purge
from edgecache.sites import Site, SiteTable
from sandbox import (
    ClusterShare,
    End,
    GuestFailed,
    GuestRequest,
    ImageError,
    Limits,
    Outcome,
    Program,
    SiteShare,
    Usage,
    Verification,
)

_BASE = 0x400000
_HEAD = 64 + 56


def program(answer: bytes = b"Content-Type: text/plain\n\nhello\n", status: int = 0) -> bytes:
    """A static ELF executable for the `cgi` convention that writes `answer` and exits with `status`."""
    code = bytearray()
    code += b"\xb8" + struct.pack("<I", 1) + b"\xbf" + struct.pack("<I", 1)  # write to 1
    code += b"\x48\x8d\x35" + struct.pack("<i", 21)  # lea rsi, [rip + 21]: what follows the code
    code += b"\xba" + struct.pack("<I", len(answer)) + b"\x0f\x05"
    code += b"\xb8" + struct.pack("<I", 60) + b"\xbf" + struct.pack("<I", status) + b"\x0f\x05\x90\x90"
    size = _HEAD + len(code) + len(answer)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEAD, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + bytes(code) + answer


def manifest(name: str = "hello", *, more: str = "", routes: str = "", convention: str = "cgi") -> bytes:
    claimed = routes or f"[/{name}/*]"
    return f"name: {name}\nprogram: {name}\nconvention: {convention}\nroutes: {claimed}\n{more}".encode()


def files(name: str = "hello", *, text: str = "hello", more: str = "") -> dict[str, bytes]:
    """A good bundle's files; another `text` is another version."""
    answer = f"Content-Type: text/plain\n\n{text}\n".encode()
    return {"generator.yaml": manifest(name, more=more), name: program(answer), "pages/index.html": text.encode()}


def tar(content: Mapping[str, bytes], *, form: int = tarfile.PAX_FORMAT, extra: Iterable[tarfile.TarInfo] = ()) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for path, data in content.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return out.getvalue()


def bundle(name: str = "hello", *, text: str = "hello", more: str = "", zipped: bool = False) -> bytes:
    data = tar(files(name, text=text, more=more))
    return gzip.compress(data) if zipped else data


@dataclass
class TrialSandbox:
    """A sandbox that runs nothing: it answers what the program holds, fails as told, and remembers what it was asked."""

    refuse: Exception | None = None
    registered: dict[str, tuple[Program, Limits, str]] = field(default_factory=dict)
    shares: dict[str, SiteShare] = field(default_factory=dict)
    clusters: dict[str, ClusterShare] = field(default_factory=dict)
    verified: list[tuple[Program, Limits, GuestRequest]] = field(default_factory=list)

    async def verify(self, program: Program, limits: Limits, sample: GuestRequest) -> Verification:
        self.verified.append((program, limits, sample))
        if self.refuse is not None:
            raise self.refuse
        if not program.image.startswith(b"\x7fELF"):
            raise ImageError("not an ELF file")
        if b"\n\n" not in program.image:
            raise GuestFailed(Outcome(End.NO_ANSWER, Usage(), "it answered nothing"))
        done = Outcome(End.FINISHED, Usage(cpu_ns=1_000))
        return Verification(done, done, program.image[_HEAD + 38 :])

    def register(self, key: str, program: Program, limits: Limits, *, tenant: str, weight: int = 100) -> None:
        if key in self.registered:
            raise ValueError(key)
        self.registered[key] = (program, limits, tenant)

    def unregister(self, key: str) -> None:
        del self.registered[key]

    def set_cluster(self, name: str, share: ClusterShare) -> None:
        self.clusters[name] = share

    def remove_cluster(self, name: str) -> None:
        del self.clusters[name]

    def set_tenant_share(self, tenant: str, share: SiteShare) -> None:
        if all(owner != tenant for _, _, owner in self.registered.values()):
            raise KeyError(tenant)
        self.shares[tenant] = share


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        value = msgspec.json.decode(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def code(self) -> object:
        return self.json.get("code")


@dataclass
class Api:
    """A client with a token, and the control behind it."""

    control: Control
    sandbox: TrialSandbox
    table: SiteTable
    session: aiohttp.ClientSession
    token: str
    purges: list[Purge]
    state_dir: Path

    async def call(
        self,
        method: str,
        path: str,
        json: object = None,
        *,
        data: bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        host, port = self.control.address
        sent = {"Authorization": f"Bearer {self.token if token is None else token}", **(headers or {})}
        if json is not None:
            data, sent = msgspec.json.encode(json), {"Content-Type": "application/json", **sent}
        elif data is not None:
            sent = {"Content-Type": "application/x-tar", **sent}
        url = f"http://{host}:{port}{path}"
        body = None if data is None else io.BytesIO(data)
        async with self.session.request(method, url, data=body, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def site(self, name: str = "shop", **more: object) -> Answer:
        body = {"name": name, "hosts": [f"{name}.test"], "origins": ["http://127.0.0.1:8090"], **more}
        return await self.call("POST", "/v1/sites", body)

    async def token_for(self, site: str, *verbs: str) -> str:
        made = await self.call("POST", "/v1/tokens", {"site": site, "verbs": list(verbs)})
        assert made.status == 201, made.body
        return str(made.json["token"])

    async def push(
        self, data: bytes, *, site: str = "shop", name: str = "hello", query: str = "", token: str | None = None
    ) -> Answer:
        return await self.call("POST", f"/v1/sites/{site}/generators/{name}/versions{query}", data=data, token=token)


async def purge_nothing(_wanted: Purge) -> int:
    """Stands for an edge whose cache is empty."""
    return 0


@contextlib.asynccontextmanager
async def running(
    state_dir: Path,
    *,
    sites: Iterable[Site] = (),
    sandbox: TrialSandbox | None = None,
    settings: Mapping[str, object] | None = None,
    status_parts: Mapping[str, Mapping[str, object]] | None = None,
) -> AsyncIterator[Api]:
    """A Control with its own state, listening on a free port."""
    chosen = replace(ControlSettings(state_dir=state_dir, port=0), **(settings or {}))  # type: ignore[arg-type]
    table, purges, used = SiteTable(), [], sandbox or TrialSandbox()

    async def purge(wanted: Purge) -> int:
        purges.append(wanted)
        return 3

    control = Control(
        chosen, table=table, sandbox=used, purge=purge, config_sites=sites, rooms=Rooms(parts=lambda: status_parts or {})
    )
    await control.load()
    await control.listen()
    try:
        secret = state_dir / "operator.token"
        token = secret.read_text().strip() if secret.exists() else ""
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield Api(control, used, table, session, token, purges, state_dir)
    finally:
        await control.close()


BASE = "/v1/sites/shop/generators/hello"


async def split(api: Api) -> dict[int, int]:
    """The split of `BASE` as the request path sees it: percent by version."""
    route = api.table.snapshot.route("shop.test", "/hello/x")
    assert route is not None
    if route.generator is None:
        return {}
    shown = (await api.call("GET", BASE)).json
    found = {active.version: active.percent for active in route.generator.active}
    assert shown["active"] == [{"version": version, "percent": percent} for version, percent in found.items()]
    assert {active.key for active in route.generator.active} <= set(api.sandbox.registered)
    return found
