"""What a system call can ask of the machine beyond a number in RAX.

Values only: handlers return them, `vm.py` acts on them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class HostCallKind(enum.StrEnum):
    """An edge call that only the monitor can answer."""

    FETCH = "fetch"
    KV_GET = "kv-get"
    KV_PUT = "kv-put"


@dataclass(frozen=True, slots=True)
class Exit:
    """The program ends. `signal` is the one it killed itself with, 0 for exit()."""

    status: int
    signal: int = 0


class NextRequest(NamedTuple):
    """The program asks for a request, to be put into [address, address + length)."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class AskMonitor:
    """An edge call for the monitor; the answer goes to [address, address + length)."""

    kind: HostCallKind
    data: bytes
    value: bytes = b""
    address: int = 0
    length: int = 0


Action = Exit | NextRequest | AskMonitor
