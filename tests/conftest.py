"""What holds for every test: compiled modules are those of the sources beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_COMPILED = Path(sys.prefix, ".compiled")
"""Made by `make compiled` when it ends."""


def pytest_configure() -> None:
    if not _COMPILED.exists():
        return
    for package in ("edgecache", "sandbox"):
        for source in (_ROOT / package).rglob("*.py"):
            if any(source.parent.glob(f"{source.stem}.*.so")) and source.stat().st_mtime > _COMPILED.stat().st_mtime:
                raise pytest.UsageError(f"{source} has changed since it was compiled: `make compiled`, or `make interpreted`")
