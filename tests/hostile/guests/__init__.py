"""Builds the C guests beside this file, once per source and compiler, into `.cache/guests/`."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from sandbox.sdk import build

_HERE = Path(__file__).parent
_CACHE = _HERE.parents[2] / ".cache" / "guests"


@functools.cache
def compiled(name: str) -> bytes:
    """The static executable of `name`.c."""
    source = _HERE / f"{name}.c"
    header = (Path(build.__file__).parent / "edge.h").read_bytes()
    key = hashlib.sha256(source.read_bytes() + header + repr(build.FLAGS).encode()).hexdigest()[:16]
    output = _CACHE / f"{name}-{key}"
    if not output.exists():
        build.compile_c([source], output)
    return output.read_bytes()
