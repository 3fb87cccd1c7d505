"""TLS to origins: a site's own authorities, name and certificate, made into contexts. Files are read here.

`origin` asks for a context at each exchange; `control` and `config` try the files out before they accept a site.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from lru import LRU

from edgecache.policy.upstream import TlsRule

_CAPACITY: Final = 1024


class TrustError(Exception):
    """A site's TLS files cannot be used. `field` is the key of the rule that names the file."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Trust:
    """Contexts by rule; a file that changes is read at the next `forget`."""

    def __init__(self) -> None:
        self._contexts: LRU[TlsRule, ssl.SSLContext] = LRU(_CAPACITY)

    async def context(self, rule: TlsRule) -> ssl.SSLContext | bool:
        """True: the system's authorities, and nothing of our own. Raises TrustError."""
        if not (rule.ca or rule.certificate or rule.insecure_skip_verify):
            return True
        found = self._contexts.get(rule)
        if found is None:
            found = self._contexts[rule] = await asyncio.to_thread(context, rule)
        return found

    def forget(self) -> None:
        """Read the files again for new connections."""
        self._contexts.clear()


def context(rule: TlsRule) -> ssl.SSLContext:
    """Reads files. Raises TrustError."""
    try:
        made = ssl.create_default_context(cafile=rule.ca or None)
    except FileNotFoundError as error:
        raise TrustError("ca", f"{rule.ca} does not exist") from error
    except OSError as error:
        raise TrustError("ca", f"{rule.ca} holds no certificates in PEM form that can be read") from error
    made.set_alpn_protocols(("http/1.1",))
    if rule.insecure_skip_verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if rule.certificate:
        try:
            made.load_cert_chain(rule.certificate, rule.key or None, password=_no_password)
        except (OSError, ValueError) as error:
            raise TrustError("certificate", f"{rule.certificate} and its key cannot be used: {_said(error)}") from error
    return made


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted")


def _said(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
