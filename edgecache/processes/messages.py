"""What the leading process and its serving processes say to each other: values only, in MessagePack frames (`channel`).

Every message with a `serial` is answered by one `Done`; guests' calls have messages of their own, told apart by `call`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from edgecache.observe.figures import Durations, GeneratorFigures, SiteFigures
from edgecache.policy.purging import Purge
from edgecache.processes.settings import PathSettings
from edgecache.sites import Site
from edgecache.store.disk import DiskStats
from edgecache.store.stats import StoreStats
from edgecache.upstream.choosing.figures import OriginFigures
from sandbox import Outcome

TO_SERVING_BYTES: Final = 256 << 20
"""Largest frame to a serving process: all sites at once."""
TO_LEADER_BYTES: Final = 32 << 20
"""Largest frame to the leader: a sub-request's answer (`edge_calls.MAX_FETCH_BYTES`) with its fields, or a report."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one process has counted since it started, and what it holds now."""

    sites: dict[str, SiteFigures] = field(default_factory=dict)
    generators: dict[str, GeneratorFigures] = field(default_factory=dict)
    durations: dict[str, Durations] = field(default_factory=dict)
    log_lines_dropped: int = 0
    store: StoreStats
    fast_hits: int = 0
    connections: int = 0
    tunnels: dict[str, int] = field(default_factory=dict)
    """By site."""
    cpu_seconds: float = 0.0
    origins: tuple[OriginFigures, ...] = ()
    """As this process sees them."""
    disk: DiskStats | None = None
    """Counters of this process; what the tier holds, whoever stored it."""
    spans_sent: int = 0
    spans_dropped: int = 0


# Leader to serving process.


class Begin(_Message, frozen=True):
    """The first message: what to serve with. The descriptors of the listening sockets were inherited."""

    settings: PathSettings
    sites: tuple[Site, ...]
    plain: tuple[int, ...]
    secure: tuple[int, ...]
    number: int
    """This process's on the board where all say what they fetch (`flight_board`)."""
    board: int | None
    """Its descriptor."""


class Accept(_Message, frozen=True):
    """Accept connections on these of the sockets, by their place among the inherited ones, and on no other."""

    serial: int
    plain: tuple[int, ...]
    secure: tuple[int, ...]


class Publish(_Message, frozen=True):
    """Sites that were added or changed, and names of those that are gone."""

    serial: int
    changed: tuple[Site, ...]
    gone: tuple[str, ...]


class PurgeStored(_Message, frozen=True):
    """Done when the purge is in force; a `Counted` follows."""

    serial: int
    purge: Purge


class Invalidate(_Message, frozen=True):
    """Forget every variant of these URIs (RFC 9111 section 4.4)."""

    serial: int
    uris: tuple[str, ...]


class Tell(_Message, frozen=True):
    """A `Told` answers it, not a Done."""

    serial: int


class Apply(_Message, frozen=True):
    """Go on with these settings."""

    serial: int
    settings: PathSettings


class Reopen(_Message, frozen=True):
    """Open the log and read the certificates again."""

    serial: int


class Fade(_Message, frozen=True):
    """Stop accepting and answer each connection once more; Done when no request can begin here any more. Drain follows."""

    serial: int
    grace_seconds: float


class Drain(_Message, frozen=True):
    """Stop accepting, finish, and end."""


class Output(_Message, frozen=True):
    """A part of a guest's answer, within the credit given."""

    call: int
    data: bytes


class Ended(_Message, frozen=True):
    """The call is over; nothing more of it follows."""

    call: int
    outcome: Outcome


class Fetch(_Message, frozen=True):
    """The guest asks for a sub-request; one `Fetched` answers it."""

    call: int
    number: int
    data: bytes


class Forgotten(_Message, frozen=True):
    """The end of an `AskPurge` or `AskInvalidate`: how many entries, in all processes; or why a purge is not on record."""

    serial: int
    count: int
    failure: str = ""


class BroughtOver(msgspec.Struct, frozen=True, array_like=True):
    """`serve.elsewhere.Brought` on its way. Names and values of fields in bytes: they need not be text."""

    status: int
    reason: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    request_time: float
    response_time: float
    body: bytes
    vary: tuple[str, ...]
    variant: bytes
    detail: str


class Claimed(_Message, frozen=True):
    """The answer to a `ClaimFlight`. `granted`: fetch, and settle; else what was brought, or neither: fetch, and tell nobody."""

    serial: int
    granted: bool
    brought: BroughtOver | None = None


class Awaited(_Message, frozen=True):
    """Somebody waits for what this claim's holder fetches."""

    serial: int


class Whose(_Message, frozen=True):
    """Is this process fetching under this digest, as the board says? Others wait for it then. A `HeldClaim` answers."""

    key: bytes


ToServing = (
    Begin
    | Accept
    | Publish
    | PurgeStored
    | Invalidate
    | Tell
    | Apply
    | Reopen
    | Fade
    | Drain
    | Output
    | Ended
    | Fetch
    | Forgotten
    | Claimed
    | Awaited
    | Whose
)


# Serving process to leader.


class Prepared(_Message, frozen=True):
    """It could accept connections now."""


class Refused(_Message, frozen=True):
    """It cannot serve with what it was given, and ends."""

    detail: str


class Done(_Message, frozen=True):
    """`failure`: one line, where what was asked for could not be done."""

    serial: int
    failure: str = ""


class Counted(_Message, frozen=True):
    """How many entries a purge concerned; follows the Done of a PurgeStored."""

    serial: int
    count: int


class Told(_Message, frozen=True):
    """`serial` 0: the last report, before it ends."""

    serial: int
    report: Report


class CallGuest(_Message, frozen=True):
    """Run the generator's version `key` on a request."""

    call: int
    key: str
    environ: tuple[tuple[bytes, bytes], ...]
    body: bytes
    request_id: str


class Credit(_Message, frozen=True):
    """So many bytes more of the answer may be sent."""

    call: int
    size: int


class Cancel(_Message, frozen=True):
    """Nobody wants the answer of this call any more."""

    call: int


class Fetched(_Message, frozen=True):
    """Bytes for the guest, or a negative errno(3)."""

    call: int
    number: int
    answer: int | bytes


class Noted(_Message, frozen=True):
    """A line that the edge itself writes into a generator's log; `key` is the version's. The leader keeps the logs."""

    key: str
    request_id: str
    line: bytes


OfGuests = CallGuest | Credit | Cancel | Fetched | Noted
"""What is for whoever runs guests (`guests.GuestPort`)."""


class AskPurge(_Message, frozen=True):
    """A client's PURGE: to be in force everywhere before it is answered."""

    serial: int
    purge: Purge


class AskInvalidate(_Message, frozen=True):
    """What an unsafe request made untrustworthy; the asker has forgotten it already."""

    serial: int
    uris: tuple[str, ...]


class ClaimFlight(_Message, frozen=True):
    """About to fetch `uri` under `key`, a digest, which the process with the number `holder` fetches, as the board says."""

    serial: int
    key: bytes
    uri: str
    holder: int


class HeldClaim(_Message, frozen=True):
    """The answer to `Whose`. `serial`: of the claim that is held, which a `Settle` ends; 0: none is."""

    key: bytes
    serial: int


class Settle(_Message, frozen=True):
    """The end of a claim of which the leader knows."""

    serial: int
    brought: BroughtOver | None = None


ToLeader = Prepared | Refused | Done | Counted | Told | OfGuests | AskPurge | AskInvalidate | ClaimFlight | HeldClaim | Settle


def _plain(value: Any) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a message")


def _typed(kind: type, value: object) -> object:
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise TypeError(f"{kind.__name__} has no place in a message")


ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
TO_SERVING: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(ToServing, dec_hook=_typed)
TO_LEADER: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(ToLeader, dec_hook=_typed)
