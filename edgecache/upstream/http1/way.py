"""The way to one origin as a connector needs it. A value; `origin` makes them, `bodiless` and `beginning` go by them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from aiohttp.client_reqrep import ConnectionKey
from yarl import URL


@dataclass(frozen=True, slots=True)
class Way:
    """Where a connection leads and how it is secured: all that the connector asks of a request."""

    url: URL
    ssl: ssl.SSLContext | bool
    """True: as the system trusts."""
    server_hostname: str | None
    host: str = field(init=False)
    """What Host says where the request has none."""
    port: int | None = field(init=False)
    connection_key: ConnectionKey = field(init=False)
    proxy: None = field(init=False, default=None)

    def __post_init__(self) -> None:
        url = self.url
        key = ConnectionKey(url.raw_host or "", url.port, self.is_ssl(), self.ssl, None, None, None, self.server_hostname)
        object.__setattr__(self, "host", url.host_port_subcomponent or "")
        object.__setattr__(self, "port", url.port)
        object.__setattr__(self, "connection_key", key)

    def is_ssl(self) -> bool:
        return self.url.scheme == "https"
