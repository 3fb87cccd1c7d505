"""The whole configuration of one edge: read from a YAML file, or made for `--origin`, into frozen values.

Settings and their defaults are the rooms' own, keys stand in `configwords`; every mistake is named at once. `edge` wires it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from edgecache import configobserve, configsites, configwords, siteform
from edgecache.configwords import Table, fill, fill_part
from edgecache.control.listening.binding import BindRefused, check_bind, is_loopback
from edgecache.control.settings import ControlSettings
from edgecache.observe.settings import LogSettings, ObserveSettings
from edgecache.policy.authority import DEFAULT_PORTS
from edgecache.policy.upstream import NO_TLS_RULE
from edgecache.serve.accepting.certificates import CertificateError, CertificateFiles, server_context
from edgecache.serve.settings import ServeSettings
from edgecache.sites import ANY_HOST, Cluster, Site
from edgecache.store import AdmissionPolicy
from edgecache.store.disk.settings import MIN_BYTES, DiskSettings
from edgecache.upstream.http1 import trust
from edgecache.upstream.settings import UpstreamSettings
from edgecache.yamlform import Node, Problems, load_file
from sandbox import MonitorPolicy

S = TypeVar("S")

_NO_TLS: Final[tuple[Path | None, Path | None]] = (None, None)
_NOBODY: Final[tuple[str, ...]] = ()
_SECTIONS: Final = (
    *("listen", "state", "control", "tls", "clusters", "sites"),
    *("cache", "sandbox", "serve", "upstream", "log", "observe"),
)

_MAX_CERTIFICATES: Final = 10_000
DEFAULT_STATE: Final = Path(".edgecache")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. IPv6 hosts without brackets; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_LISTEN: Final = Address("127.0.0.1", 8080)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The tiers of the cache."""

    memory_bytes: int = 256 << 20
    max_variants: int = 64
    """Stored responses of one URI that differ by Vary."""
    max_entry_share: float = 0.5
    """The largest part of the memory that one response may take."""
    admission: AdmissionPolicy = AdmissionPolicy.TINYLFU
    """Who stays when memory is full."""
    disk: DiskSettings | None = None
    """None: memory only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """HTTPS for clients, beside plain HTTP."""

    listen: Address
    certificates: tuple[CertificateFiles, ...]
    """At least one; the first also for clients that name no known host."""
    http2: bool = True
    """Whether clients are offered HTTP/2."""
    proxies: tuple[str, ...] = ()
    """As `Config.proxies`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything an edge is told at its start."""

    source: Path | None = None
    listen: Address = DEFAULT_LISTEN
    proxies: tuple[str, ...] = ()
    """Networks of load balancers that announce their clients by the PROXY protocol; nobody else may connect. Empty: everybody,
    and nobody is announced."""
    tls: TlsSettings | None = None
    state_dir: Path = DEFAULT_STATE
    control: ControlSettings = field(default_factory=lambda: ControlSettings(state_dir=DEFAULT_STATE))
    clusters: tuple[Cluster, ...] = ()
    sites: tuple[Site, ...] = ()
    cache: CacheSettings = field(default_factory=CacheSettings)
    sandbox: MonitorPolicy = field(default_factory=MonitorPolicy)
    serve: ServeSettings = field(default_factory=ServeSettings)
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    log: LogSettings = field(default_factory=LogSettings)
    observe: ObserveSettings = field(default_factory=ObserveSettings)

    def overridden(
        self,
        *,
        listen: str | None = None,
        control: str | None = None,
        engine: str | None = None,
        state: Path | None = None,
        processes: str | None = None,
    ) -> Config:
        """With what the command line says in place of the file's. Raises FormError naming the option."""
        config = self
        if state is not None:
            settings = dataclasses.replace(config.control, state_dir=state)
            config = dataclasses.replace(config, state_dir=state, control=settings)
            _check_directories(config, _option("--state", str(state)))
        if engine is not None:
            chosen = _option("--engine", engine).choice(configwords.ENGINES)
            config = dataclasses.replace(config, sandbox=dataclasses.replace(config.sandbox, engine=chosen))
        if processes is not None:
            count = configwords.read_processes(Node("--processes", 0, 0, "", processes, plain=True))
            config = dataclasses.replace(config, serve=dataclasses.replace(config.serve, processes=count))
        if listen is not None:
            config = dataclasses.replace(config, listen=read_address(_option("--listen", listen)))
        if control is not None:
            address = read_address(_option("--control", control))
            settings = dataclasses.replace(config.control, host=address.host, port=address.port)
            config = dataclasses.replace(config, control=settings)
        _check_listeners(config, _option("--control", control or ""))
        if any(_is_own(origin, config.listen) for site in config.sites for origin in site.origins):
            wrong = (
                f"an origin is this edge itself, which listens on {config.listen}; listen elsewhere, or name the server behind it"
            )
            raise _option("--origin" if listen is None else "--listen", listen or "").error(wrong)
        return config


def load(path: Path) -> Config:
    """The configuration in a file. Raises FormError with every mistake that was found."""
    root = load_file(path)
    problems, control = Problems(), Problems()
    form: dict[str, Node] = {}
    if not root.null:
        problems.check(lambda: root.mapping(_SECTIONS))
        form.update(root.value if isinstance(root.value, Mapping) else {})
    base = path.parent

    def section(key: str, default: S, table: Table) -> S:
        return fill(form.get(key), default, table, problems)

    state = problems.attempt(lambda: _path(form["state"], base), DEFAULT_STATE) if "state" in form else DEFAULT_STATE
    listening = (DEFAULT_LISTEN, _NOBODY)
    listen, proxies = problems.attempt(lambda: _listening(form["listen"]), listening) if "listen" in form else listening
    config = Config(
        source=path,
        listen=listen,
        proxies=proxies,
        tls=problems.attempt(lambda: _client_tls(form["tls"], base), None) if "tls" in form else None,
        state_dir=state,
        control=_control(form.get("control"), ControlSettings(state_dir=state, config_file=path), base, control),
        clusters=configsites.read_clusters(form["clusters"], problems) if "clusters" in form else (),
        sites=configsites.read_sites(form["sites"], problems, base) if "sites" in form and not form["sites"].null else (),
        cache=section("cache", CacheSettings(), {**configwords.CACHE, "disk": ("disk", partial(_disk, base=base))}),
        sandbox=_sandbox(form.get("sandbox"), MonitorPolicy(), problems),
        serve=section("serve", ServeSettings(), configwords.SERVE),
        upstream=section("upstream", UpstreamSettings(), configwords.UPSTREAM),
        observe=configobserve.read_observe(form.get("observe"), problems),
        log=section("log", LogSettings(), {**configwords.LOG, "access": ("access", partial(_log_target, base=base))}),
    )
    if problems.check(control.raise_any):
        problems.check(lambda: _check_listeners(config, form.get("control", root)))
    problems.check(lambda: _check_directories(config, form.get("cache", root)))
    if "sites" in form:
        _check_loops(config.listen, form["sites"], problems)
        _check_trust(form["sites"], config.sites, problems)
        configsites.check_clusters(form["sites"], config.sites, config.clusters, problems)
    problems.raise_any()
    return config


def from_origin(url: str) -> Config:
    """A cache in front of one origin, for any host name. Raises FormError naming `--origin`."""
    if (problem := siteform.origin_problem(url)) is not None:
        raise _option("--origin", "").error(problem)
    return Config(sites=(Site(name="default", hosts=(ANY_HOST,), origins=(url.removesuffix("/"),), from_config=True),))


def read_address(node: Node) -> Address:
    """`HOST:PORT`, `[IPv6]:PORT` or `localhost:PORT`. Raises FormError."""
    text = node.text(limit=300)
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    wanted = "HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"
    if not colon or not host or (":" in bare) != host.startswith("[") or host.startswith("[") != host.endswith("]"):
        raise node.error(f"must be {wanted}, not {text[:60]!r}")
    if siteform.host_problem(f"[{bare}]" if ":" in bare else bare.lower()) is not None or "*" in bare:
        raise node.error(f"must be {wanted}; {bare[:60]!r} is no host (to listen on every address: 0.0.0.0 or [::])")
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise node.error(f"must be {wanted}; the port must be from 0 to 65535, not {port[:20]!r}")
    return Address(bare, int(port))


def _listening(node: Node) -> tuple[Address, tuple[str, ...]]:
    """An address alone, or with the networks of `proxy_protocol`. Raises FormError."""
    if not isinstance(node.value, Mapping):
        return read_address(node), _NOBODY
    form = node.mapping(("address", "proxy_protocol"), ("address",))
    trusted = form.get("proxy_protocol")
    return read_address(form["address"]), _NOBODY if trusted is None else configsites.read_networks(trusted)


def _option(name: str, value: str) -> Node:
    return Node(name, 0, 0, "", value)


def _control(node: Node | None, base: ControlSettings, directory: Path, problems: Problems) -> ControlSettings:
    if node is None or node.null:
        return base
    known = ("listen", "tls", "metrics", *configwords.CONTROL, "bundles", "logs", "values")
    problems.check(lambda: node.mapping(known))
    parts = node.value if isinstance(node.value, Mapping) else {}
    address = Address(base.host, base.port)
    if "listen" in parts:
        address = problems.attempt(lambda: read_address(parts["listen"]), address)
    tls = problems.attempt(lambda: _tls(parts["tls"], directory), _NO_TLS) if "tls" in parts else _NO_TLS
    return dataclasses.replace(
        fill_part(node, fill(parts.get("metrics"), base, configwords.METRICS, problems), configwords.CONTROL, problems),
        host=address.host,
        port=address.port,
        tls_certificate=tls[0],
        tls_key=tls[1],
        bundles=fill(parts.get("bundles"), base.bundles, configwords.BUNDLES, problems),
        logs=fill(parts.get("logs"), base.logs, configwords.LOGS, problems),
        values=fill(parts.get("values"), base.values, configwords.VALUES, problems),
    )


def _sandbox(node: Node | None, base: MonitorPolicy, problems: Problems) -> MonitorPolicy:
    if node is None or node.null:
        return base
    tables = (configwords.MONITOR, configwords.JAIL, configwords.DISPATCH, configwords.POOL)
    problems.check(lambda: node.mapping([*(key for table in tables for key in table), "quarantine"]))
    parts = node.value if isinstance(node.value, Mapping) else {}
    dispatch = dataclasses.replace(
        fill_part(node, base.dispatch, configwords.DISPATCH, problems),
        pool=fill_part(node, base.dispatch.pool, configwords.POOL, problems),
        quarantine=fill(parts.get("quarantine"), base.dispatch.quarantine, configwords.QUARANTINE, problems),
    )
    if dispatch.pool.max_workers < dispatch.slots:
        wrong = f"max_workers ({dispatch.pool.max_workers}) is below workers ({dispatch.slots}); raise it, or lower workers"
        problems.add(node.error(wrong))
    if dispatch.quarantine.longest_s < dispatch.quarantine.first_s:
        problems.add(parts["quarantine"].error("longest is below first; raise it, or lower first"))
    jail = fill_part(node, base.jail, configwords.JAIL, problems)
    return dataclasses.replace(fill_part(node, base, configwords.MONITOR, problems), jail=jail, dispatch=dispatch)


def _tls(node: Node, directory: Path) -> tuple[Path | None, Path | None]:
    form = node.mapping(("certificate", "key"), ("certificate", "key"))
    return _readable(form["certificate"], directory), _readable(form["key"], directory)


def _client_tls(node: Node, directory: Path) -> TlsSettings:
    form = node.mapping(("listen", "certificates", "http2"), ("listen", "certificates"))
    problems = Problems()
    listen, proxies = problems.attempt(lambda: _listening(form["listen"]), (DEFAULT_LISTEN, _NOBODY))
    items = form["certificates"].sequence(1, _MAX_CERTIFICATES)
    pairs = [(item, problems.attempt(partial(_certificate, item, directory), None)) for item in items]
    hosts: set[str] = set()
    for item, certificate in pairs:
        twice = hosts.intersection(certificate.hosts if certificate else ())
        if twice:
            problems.add(item.error(f"{min(twice)} has a certificate already; name each host once"))
        hosts.update(certificate.hosts if certificate else ())
    http2 = problems.attempt(form["http2"].boolean, True) if "http2" in form else True
    problems.raise_any()
    certificates = tuple(certificate for _, certificate in pairs if certificate)
    return TlsSettings(listen=listen, certificates=certificates, http2=http2, proxies=proxies)


def _certificate(node: Node, directory: Path) -> CertificateFiles:
    keys = ("hosts", "chain", "key")
    form = node.mapping(keys, keys)
    files = CertificateFiles(
        configsites.read_hosts(form["hosts"]), _readable(form["chain"], directory), _readable(form["key"], directory)
    )
    try:
        server_context(files.chain, files.key)
    except CertificateError as error:
        raise form["chain"].error(str(error)) from error
    return files


def _disk(node: Node, base: Path) -> DiskSettings:
    node.mapping(("path", *configwords.DISK), ("path", "bytes"))
    form = node.value if isinstance(node.value, Mapping) else {}
    problems = Problems()
    path = problems.attempt(lambda: _path(form["path"], base), base)
    settings = fill_part(node, DiskSettings(path=path, capacity_bytes=MIN_BYTES), configwords.DISK, problems)
    problems.raise_any()
    return settings


def _path(node: Node, directory: Path) -> Path:
    """A path; relative ones start at the configuration file's directory."""
    text = node.text()
    if not text.strip():
        raise node.error("must be a path, not empty")
    return directory / Path(text).expanduser()


def _readable(node: Node, directory: Path) -> Path:
    path = _path(node, directory)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise node.error(f"{path} cannot be read: {error.strerror}") from error


def _log_target(node: Node, base: Path) -> Path | None:
    text = node.text()
    if text == "off":
        return None
    if text == "-":
        return Path("-")
    path = _path(node, base)
    if not path.parent.is_dir():
        raise node.error(f"the directory {path.parent} does not exist; make it, or write - for standard output, or off")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise node.error(f"{path} cannot be written to; name another file, - for standard output, or off")
    return path


def _check_loops(listen: Address, sites: Node, problems: Problems) -> None:
    """An origin that is the edge's own listener would send each request round until the loop is detected."""
    for site in sites.value if isinstance(sites.value, tuple) else ():
        origins = site.value.get("origins") if isinstance(site.value, Mapping) else None
        for item in origins.value if origins is not None and isinstance(origins.value, tuple) else ():
            origin = item.value.get("url", item) if isinstance(item.value, Mapping) else item
            if isinstance(origin.value, str) and _is_own(origin.value, listen):
                problems.add(origin.error(f"is this edge itself, which listens on {listen}; name the server behind it"))


def _check_trust(node: Node, sites: tuple[Site, ...], problems: Problems) -> None:
    """What a site names for TLS to its origins must be usable now, rather than fail its first request."""
    nodes = node.value if isinstance(node.value, tuple) else ()
    # Where a site could not be read at all, the lists do not match; what is wrong is known then.
    for item, site in zip(nodes, sites, strict=False):
        if site.upstream.tls == NO_TLS_RULE or len(nodes) != len(sites):
            continue
        try:
            trust.context(site.upstream.tls)
        except trust.TrustError as error:
            problems.add(item.entries()["upstream"].entries()["tls"].entries()[error.field].error(str(error)))


def _is_own(url: str, listen: Address) -> bool:
    if siteform.origin_problem(url) is not None:
        return False
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    anywhere = listen.host in {"0.0.0.0", "::"} and is_loopback(parts.hostname or "")
    return port == listen.port and (parts.hostname == listen.host.lower() or anywhere)


def _check_directories(config: Config, node: Node) -> None:
    """The directory of a disk tier can be removed at any time, and its state must not go with it. Raises FormError."""
    if config.cache.disk is None:
        return
    state, disk = config.state_dir.absolute(), config.cache.disk.path.absolute()
    if Path(os.path.normpath(state)).is_relative_to(os.path.normpath(disk)):
        wrong = f"the disk tier's directory {config.cache.disk.path} holds the state ({config.state_dir}); give it one of its own"
        raise node.error(wrong)


def _check_listeners(config: Config, control: Node) -> None:
    address = Address(config.control.host, config.control.port)
    if config.tls is not None and config.tls.listen.port != 0 and config.tls.listen in (config.listen, address):
        raise control.error(f"tls.listen is {config.tls.listen}, where another listener is; choose another port for one of them")
    if config.listen == address and address.port != 0:
        raise control.error(f"listens on {address}, as the edge itself does; choose another port for one of them")
    try:
        check_bind(config.control)
    except BindRefused as error:
        raise control.error(str(error).removeprefix("control: ")) from error
