"""Where the control API may listen, and the TLS it needs elsewhere than on loopback. Called by `control` before it binds."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from edgecache.control.settings import ControlSettings

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
        return _tls(settings.tls_certificate, settings.tls_key)
    if not is_loopback(settings.host):
        raise BindRefused(
            f"control: {settings.host} is not a loopback address, and without TLS tokens would cross the network in the clear; "
            "listen on 127.0.0.1 or set a TLS certificate and key"
        )
    return None


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or "not a PEM certificate and key"
        raise BindRefused(f"control: cannot load the TLS certificate {certificate} with the key {key}: {reason}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; decrypt it, for nobody is there to type a password")
