"""What a worker reports of a request or a boot, held to what can be true.

A worker may have been taken over by its guest: an end that only the monitor decides breaks the protocol, as numbers do that no
request reaches (`outcome.Usage`); text is cut and made printable, for it goes to logs and problem documents. Called by
`dispatcher.py` and `lane.py`.
"""

from __future__ import annotations

from typing import Final

from sandbox.channel import wire
from sandbox.guest.edge_calls import MAX_FETCH, MAX_KEY, MAX_VALUE
from sandbox.outcome import End, Outcome

MAX_DETAIL: Final = 500
"""Characters of a worker's words that are kept."""
SLICES_BEYOND: Final = 4
SLICES_SLACK_NS: Final = 100_000_000
"""How far slices given may exceed the limit on CPU time used: a slice may end early, and the last one is cut."""

REQUEST_ENDS: Final = frozenset(
    {
        End.FINISHED,
        End.CPU_LIMIT,
        End.MEMORY_LIMIT,
        End.OUTPUT_LIMIT,
        End.EDGE_CALL_LIMIT,
        End.SYSTEM_CALL_LIMIT,
        End.FAULT,
        End.NO_ANSWER,
        End.EXIT_STATUS,
    }
)
"""How a machine ends a request; the other ends are the monitor's to decide."""


def check_slices(given_ns: int, limit_ns: int) -> None:
    """Raises WireError for a worker that has asked for slices of far more CPU time than the limit at which it ends a guest.

    One that was taken over could otherwise ask without end, and use none of them.
    """
    if given_ns > SLICES_BEYOND * limit_ns + SLICES_SLACK_NS:
        raise wire.WireError(f"slices of {given_ns} ns within a limit of {limit_ns} ns")


def check_end(end: End) -> None:
    """Raises WireError when a worker tells an end of a request that is not its to tell."""
    if end is not End.FINISHED and end not in REQUEST_ENDS:
        raise wire.WireError(f"an end that is not a worker's to tell: {end}")


def check_asked(wanted: wire.WantsAnswer) -> None:
    """Raises WireError for an edge call that no machine would have passed on: to read it takes time that is everybody's."""
    most = MAX_FETCH if wanted.kind == "fetch" else MAX_KEY
    if len(wanted.data) > most or len(wanted.value) > (MAX_VALUE if wanted.kind == "kv-put" else 0):
        raise wire.WireError(f"an edge call of {len(wanted.data)} and {len(wanted.value)} bytes")


def told(outcome: Outcome) -> Outcome:
    """The same with its detail made presentable."""
    if not outcome.detail:
        return outcome
    shown = presentable(outcome.detail)
    return outcome if shown == outcome.detail else Outcome(outcome.end, outcome.usage, shown)


def presentable(text: str) -> str:
    """A worker's words on one line, at most MAX_DETAIL characters."""
    text = text[:MAX_DETAIL]
    return text if text.isprintable() else ascii(text)[1:-1][:MAX_DETAIL]
