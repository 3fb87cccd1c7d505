"""Tests that take `engine` run once on each; on kvm they are skipped, and say so, where the machine has none that works."""

from __future__ import annotations

import pytest

from sandbox.engines import kvm_probe


@pytest.fixture(name="kvm_reason", scope="session")
def kvm_reason_fixture() -> str:
    """Why there is no kvm engine here; empty when there is one."""
    return kvm_probe.obstacle()


@pytest.fixture(name="engine", params=["unicorn", "kvm"])
def engine_fixture(request: pytest.FixtureRequest, kvm_reason: str) -> str:
    name: str = request.param
    if name == "kvm" and kvm_reason:
        pytest.skip(f"no kvm engine: {kvm_reason}")
    return name
