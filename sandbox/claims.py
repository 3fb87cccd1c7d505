"""What a worker claims about the end of a request or a boot, held to what can be true.

A worker may have been taken over by its guest: an end that only the monitor decides, or numbers that no request reaches, break
the protocol; text is cut and made printable, for it goes to logs and problem documents. Called by `dispatcher.py`.
"""

from __future__ import annotations

from typing import Final

from sandbox import wire
from sandbox.guest.exchange import MAX_UNKNOWN
from sandbox.outcome import End, Outcome, Usage

MAX_DETAIL: Final = 500
"""Characters of a worker's words that are kept."""
MAX_NUMBER: Final = 1 << 50
"""More nanoseconds, bytes or calls than a request can take: its limits end it long before."""

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

_COUNTS: Final = tuple(name for name in Usage._fields if name != "unknown_calls")


def check_slices(given_ns: int, limit_ns: int) -> None:
    """Raises WireError for a worker that has asked for slices of far more CPU time than the limit at which it ends a guest.

    One that was taken over could otherwise ask without end, and use none of them.
    """
    if given_ns > SLICES_BEYOND * limit_ns + SLICES_SLACK_NS:
        raise wire.WireError(f"slices of {given_ns} ns within a limit of {limit_ns} ns")


def check(message: wire.FromWorker) -> None:
    """Raises WireError when a report's outcome cannot be true."""
    match message:
        case wire.CallSlice(event=wire.Done(outcome=outcome)):
            if outcome.end not in REQUEST_ENDS:
                raise wire.WireError(f"an end that is not a worker's to tell: {outcome.end}")
        case wire.BootSlice(outcome=outcome) if outcome is not None:
            pass
        case _:
            return
    usage = outcome.usage
    if len(usage.unknown_calls) > MAX_UNKNOWN or not all(0 <= getattr(usage, name) <= MAX_NUMBER for name in _COUNTS):
        raise wire.WireError("a use of resources that cannot be")


def told(outcome: Outcome) -> Outcome:
    """The same with its detail made presentable."""
    shown = presentable(outcome.detail)
    return outcome if shown == outcome.detail else Outcome(outcome.end, outcome.usage, shown)


def presentable(text: str) -> str:
    """A worker's words on one line, at most MAX_DETAIL characters."""
    text = text[:MAX_DETAIL]
    return text if text.isprintable() else ascii(text)[1:-1][:MAX_DETAIL]
