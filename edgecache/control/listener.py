"""Where the control API may listen, and the TLS it needs elsewhere than on loopback.

Called by `config` for its checks, by `edge` and `service` before anything is bound, and by the API for who may scrape the
metrics.
"""

from __future__ import annotations

import ipaddress
import ssl

from edgecache.control.settings import ControlSettings
from edgecache.serve.certificates import CertificateError, server_context

_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "localhost.localdomain"})


class BindRefused(Exception):
    """The control API must not listen there. The message says why and what to do."""


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, IPv6 with or without brackets) can be reached from this machine alone."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_bind(settings: ControlSettings) -> ssl.SSLContext | None:
    """The TLS context to listen with, None for plain HTTP on loopback. Raises BindRefused."""
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise BindRefused("control: TLS needs a certificate and a key; give both or neither")
    if settings.tls_certificate is not None and settings.tls_key is not None:
        try:
            return server_context(settings.tls_certificate, settings.tls_key)
        except CertificateError as error:
            raise BindRefused(f"control: {error}") from error
    if not is_loopback(settings.host):
        raise BindRefused(
            f"control: {settings.host} is not a loopback address, and without TLS tokens would cross the network in the clear; "
            "listen on 127.0.0.1 or set a TLS certificate and key"
        )
    return None
