"""Where the control API may listen, and the TLS it needs elsewhere than on loopback.

Called by `config` for its checks, by `edge` and `service` before anything is bound, and by the API for who may scrape the
metrics.
"""

from __future__ import annotations

import ipaddress
import ssl

from edgecache.control.settings import ControlSettings
from edgecache.serve.accepting.certificates import CertificateError, server_context

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


def is_foreign(authority: str, settings: ControlSettings) -> bool:
    """Whether a request for `authority` was meant for somebody else: on loopback, a name that a stranger may have pointed here.

    A page in a browser on this machine could read what needs no token (DNS rebinding): its name has a dot and is not ours.
    """
    if settings.tls_certificate is not None:
        return False
    name = authority.lower() if authority.startswith("[") else authority.lower().partition(":")[0].rstrip(".")
    return "." in name and not is_loopback(name) and not name.endswith(".localhost") and not _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").partition("]")[0])
    except ValueError:
        return False
    return True


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
