"""What holds for every test: compiled modules are those of the sources beside them; no example of hypothesis has a deadline."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long one example takes depends on what else the machine does.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

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
