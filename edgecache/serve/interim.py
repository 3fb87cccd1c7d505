"""Interim (1xx) responses on their way to a client, ahead of the answer (RFC 9110 section 15.2).

A connection makes one for each request; the source calls it until the answer's head is written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from edgecache.policy.forwarding import to_client
from edgecache.policy.message import Response


class InterimWriter:
    """Hands what it is called with to `write`, as long as it is open. `write` raises ConnectionError when the client has gone."""

    def __init__(self, write: Callable[[Response], None], edge_id: str, *, http10: bool = False) -> None:
        # RFC 9110 section 15.2: an HTTP/1.0 client is sent no 1xx.
        self._write = None if http10 else write
        self._edge_id = edge_id

    def __call__(self, response: Response) -> None:
        if self._write is None:
            return
        head = Response(response.status, response.reason, to_client(response, edge_id=self._edge_id))
        with suppress(ConnectionError, ValueError):  # the client has gone, or a value is not fit to be sent: it is only a hint
            self._write(head)

    def close(self) -> None:
        """The answer begins: whatever comes late is dropped. A pooled connection to an origin may hold this for long, and must
        not hold the client's connection with it."""
        self._write = None
