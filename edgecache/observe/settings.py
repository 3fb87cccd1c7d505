"""What the operator may set about logging. Values only; `config` fills them, `access_log` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The access log of one edge."""

    access: Path | None = None
    """Where the access log goes: a file, `-` for standard output, None for nowhere."""
    format: Literal["json"] = "json"
    """One JSON object a line."""
    queue: int = 10_000
    """Lines that may wait for a slow disk; further ones are dropped and counted."""
    query: bool = True
    """Whether the query of the URI is logged; without, it is cut off at the `?`."""
    uri_chars: int = 2048
    """Longer URIs are cut."""
