"""One request on its way through the pipeline, and what is known of the answers that flights bring. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgecache.observe.tracing import Parent
from edgecache.policy.message import Request, Response
from edgecache.policy.variance import variant_key
from edgecache.serve.answer import Meter
from edgecache.serve.elsewhere import Claim
from edgecache.sites import Route
from edgecache.source import Body, Interim, Source


@dataclass(frozen=True, slots=True)
class Asked:
    """A source that was asked before the request became a flight's."""

    source: Source
    at: float
    since: int
    """How many purges there had been when it was asked."""
    claim: Claim | None
    """Held for it, where other processes may want the same."""


@dataclass(slots=True, init=False, unsafe_hash=True)
class Call:
    """One request on its way through the pipeline."""

    request: Final[Request]
    body: Final[Body | None]
    client_ip: Final[str]
    request_id: Final[str]
    route: Final[Route]
    prepared: Final[bool]
    """The answer is for the wire: its head may be given as bytes alone."""
    meter: Final[Meter]
    trace: Final[Parent | None]
    """The parent of the spans of its steps; None: it is not traced."""
    on_interim: Final[Interim | None]
    asked: Final[Asked | None]
    """Set where the source has been asked already."""

    def __init__(
        self,
        *,
        request: Request,
        body: Body | None,
        client_ip: str,
        request_id: str,
        route: Route,
        prepared: bool = True,
        meter: Meter | None = None,
        trace: Parent | None = None,
        on_interim: Interim | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.request = request
        self.body = body
        self.client_ip = client_ip
        self.request_id = request_id
        self.route = route
        self.prepared = prepared
        self.meter = Meter() if meter is None else meter
        self.trace = trace
        self.on_interim = on_interim
        self.asked = asked


FlightKey = tuple[str, str | None, str, str]
"""Site, generator, URI and variant: requests with the same one may wait for the same answer."""


def flight_key(request: Request, route: Route, vary: tuple[str, ...]) -> FlightKey:
    """`vary`: the fields that are known to select among the responses of its URI."""
    generator = route.generator.name if route.generator else None
    return route.site.name, generator, request.uri, variant_key(request, vary, route.rule)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a purge would see of an entry that is not made yet."""

    uri: str
    site: str
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Selected:
    """Which requests a landing answers, and the two heads it has: for the one who asked, and for everybody else."""

    vary: tuple[str, ...]
    variant: str
    original: Response
    stored: Response
    born: float
    detail: str
    expected: Expected
    since: int
    """How many purges there had been when it was asked for."""
    asked: float
    answered: float
