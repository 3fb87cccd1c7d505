"""The traceparent field (W3C Trace Context, level 1, section 3.2): read strictly, and written. Pure.

`tracing` reads what clients send, and what it writes goes to origins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FIELD: Final = "Traceparent"
STATE_FIELD: Final = "Tracestate"
_SAMPLED: Final = 0x01
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """Who asks, in its trace."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{_SAMPLED if self.sampled else 0:02x}"


def parse(lines: Sequence[str]) -> TraceParent | None:
    """The one traceparent of a request; None where there is none, several, or one that is not exactly as it must be."""
    found = _FORM.fullmatch(lines[0]) if len(lines) == 1 and len(lines[0]) <= 512 else None
    # A later version may say more after a further hyphen (section 3.2.4), this one may not.
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return TraceParent(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED))
