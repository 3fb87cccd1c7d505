"""The certificates that the edge shows to clients: which one for which name (SNI, RFC 6066 section 3), and their reloading.

The configuration names the files, `edge` makes one set and reloads it, `listener` serves with it. Nothing of a key is ever shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ALPN_HTTP_2: Final = "h2"
_ALPN_HTTP_1: Final = "http/1.1"
_LONGEST_BYTES: Final = 1 << 20


class CertificateError(Exception):
    """Files that are no usable certificate and key. The message names them and says why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """One certificate: the names it is shown for, and its files in PEM."""

    hosts: tuple[str, ...]
    """Lower case; `*.example.org` is any name below it, `*` any name at all."""
    chain: Path
    """The server's own certificate first, then its issuers'."""
    key: Path


def server_context(chain: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later with this certificate. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9113 section 9.2.1: neither may be used with HTTP/2.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(chain, key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise CertificateError(
            f"cannot load the TLS certificate {chain} with the key {key}: {_why(error, chain, key)}"
        ) from error
    return context


def find(contexts: Mapping[str, ssl.SSLContext], name: str | None) -> ssl.SSLContext | None:
    """The context for a name: its own, that of the nearest wildcard above it, or that of `*`."""
    wanted = (name or "").lower().removesuffix(".")
    if (exact := contexts.get(wanted)) is not None:
        return exact
    labels = wanted.split(".")
    above = ("*." + ".".join(labels[start:]) for start in range(1, len(labels)))
    return next((contexts[pattern] for pattern in above if pattern in contexts), contexts.get("*"))


class Certificates:
    """All certificates of one listener, by name. A client that names none, or one that is unknown, is shown the first."""

    def __init__(self, files: Iterable[CertificateFiles], *, http2: bool = True) -> None:
        """`http2`: offered to clients (RFC 7301), before HTTP/1.1. Raises CertificateError."""
        self._files = tuple(files)
        self._alpn = (ALPN_HTTP_2, _ALPN_HTTP_1) if http2 else (_ALPN_HTTP_1,)
        self._contexts = self._load()
        self._default = self._contexts[self._files[0].hosts[0]]
        # Handshakes begin in this context and go on in the one of their name, so a listener keeps it for good.
        self.context: Final = server_context(self._files[0].chain, self._files[0].key)
        self.context.set_alpn_protocols(self._alpn)
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read the files again. Raises CertificateError, and the certificates that were read before stay in use.

        Connections keep what they began with.
        """
        self._contexts = self._load()
        self._default = self._contexts[self._files[0].hosts[0]]

    def change(self, files: Iterable[CertificateFiles]) -> None:
        """Show these from now on. Raises CertificateError, as `reload`."""
        before, self._files = self._files, tuple(files)
        try:
            self.reload()
        except CertificateError:
            self._files = before
            raise

    def _load(self) -> dict[str, ssl.SSLContext]:
        loaded: dict[str, ssl.SSLContext] = {}
        for files in self._files:
            context = server_context(files.chain, files.key)
            context.set_alpn_protocols(self._alpn)
            loaded |= dict.fromkeys(files.hosts, context)
        return loaded

    def _choose(self, handshake: ssl.SSLSocket | ssl.SSLObject, name: str | None, _initial: ssl.SSLContext) -> None:
        handshake.context = find(self._contexts, name) or self._default


def _why(error: Exception, chain: Path, key: Path) -> str:
    """OpenSSL says `PEM lib` of most mistakes, and not in which file."""
    if not isinstance(error, ssl.SSLError):
        return getattr(error, "strerror", None) or str(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is that of another certificate"
    for path, kind in ((chain, "certificate"), (key, "private key")):
        try:
            with path.open("rb") as file:
                if f"{kind.upper()}-----".encode() not in file.read(_LONGEST_BYTES):
                    return f"{path.name} holds no {kind} in PEM"
        except OSError as unread:
            return f"{path.name}: {unread.strerror}"
    return error.reason or "OpenSSL cannot read them"


def _no_password() -> str:
    raise ValueError("the key is encrypted; decrypt it, for nobody is there to type a password")
