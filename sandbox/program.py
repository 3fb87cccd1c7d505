"""What is to be run: a program and the read-only files that come with it.

A value only. `image.py` turns it into a template; the monitor registers it under a name.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Convention(enum.StrEnum):
    """How a program meets its requests."""

    CGI = "cgi"
    """RFC 3875: environment and stdin in, `Status:`/headers/body on stdout, one process a request."""

    RESIDENT = "resident"
    """The program initialises once, then asks for requests with the edge call `next_request`."""


@dataclass(frozen=True, slots=True)
class Program:
    """A static x86-64 ELF executable, its arguments, environment and files."""

    image: bytes
    """The ELF file, unparsed: hostile until `image.parse` has accepted it."""
    convention: Convention
    name: str = "program"
    """argv[0]."""
    args: tuple[str, ...] = ()
    """argv[1:]."""
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()
    """Path relative to the bundle's root, and content: what the guest may open, read-only."""
