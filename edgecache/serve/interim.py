"""Interim (1xx) responses on their way to a client, ahead of the answer (RFC 9110 section 15.2).

`connection` makes one for each request; the source calls it until the answer's head is written.
"""

from __future__ import annotations

from contextlib import suppress

from edgecache.policy.forwarding import to_client
from edgecache.policy.message import Response
from edgecache.serve.wire import encode_head
from edgecache.serve.writer import Wire


class InterimWriter:
    """Writes what it is called with, as long as it is open."""

    def __init__(self, wire: Wire, edge_id: str, *, http10: bool) -> None:
        # RFC 9110 section 15.2: an HTTP/1.0 client is sent no 1xx.
        self._wire = None if http10 else wire
        self._edge_id = edge_id

    def __call__(self, response: Response) -> None:
        if self._wire is None:
            return
        head = Response(response.status, response.reason, to_client(response, edge_id=self._edge_id))
        with suppress(ConnectionError, ValueError):  # the client has gone, or a value is not fit to be sent: it is only a hint
            self._wire.send(encode_head(head) + b"\r\n")

    def close(self) -> None:
        """The answer begins: whatever comes late is dropped. A pooled connection to an origin may hold this for long, and must
        not hold the client's connection with it."""
        self._wire = None
