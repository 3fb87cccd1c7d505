"""Requests that make stored responses go: the method PURGE, and unsafe requests that succeeded. Here and in sibling processes.

`pipeline` hands them over; what a purge does within one process is `purger`'s.
"""

from __future__ import annotations

from typing import Protocol

from edgecache.policy.access import may_purge
from edgecache.policy.invalidation import targets
from edgecache.policy.message import Request, Response
from edgecache.policy.purging import Purge
from edgecache.serve.answer import Answer
from edgecache.serve.call import Call
from edgecache.serve.purging.purger import Purger
from edgecache.serve.respond import CacheOutcome, Responder
from edgecache.source import SourceError


class Siblings(Protocol):
    """The other processes that serve the same sites, each with a store of its own."""

    async def purge(self, purge: Purge) -> int:
        """Put it in force in all processes, this one too; how many entries it concerns. Raises SourceError."""

    async def invalidate(self, uris: tuple[str, ...]) -> None:
        """Have the others forget every variant of `uris`; returns when they have."""


class Forgetting:
    """For one process, and its siblings where there are any."""

    def __init__(self, purger: Purger, siblings: Siblings | None) -> None:
        self._purger = purger
        self._siblings = siblings

    async def purge(self, call: Call, respond: Responder) -> Answer:
        """The answer to the method PURGE: the URL it names, every variant, of the site that it is asked of."""
        access = call.route.site.access
        if not access.purge:
            return respond.not_allowed(call)
        if not may_purge(access, call.client_ip):
            text = "This site does not let this client purge."
            return respond.refused(call, 403, text, outcome=CacheOutcome("none", "purge-denied"))
        try:
            wanted = Purge(urls=(call.request.uri,), site=call.route.site.name)
        except ValueError as error:
            return respond.refused(call, 400, f"This is no URL to purge: {error}.", outcome=CacheOutcome("none", "purge"))
        everywhere = self._purger.purge if self._siblings is None else self._siblings.purge
        try:
            return respond.purged(call, await everywhere(wanted))
        except SourceError as error:
            return respond.failed(call, error)

    async def invalidate(self, request: Request, response: Response) -> None:
        """A successful unsafe request makes what is stored untrustworthy (RFC 9111 section 4.4)."""
        uris = tuple(targets(request, response))
        for uri in uris:
            self._purger.invalidate(uri)
        if uris and self._siblings is not None:
            await self._siblings.invalidate(uris)
