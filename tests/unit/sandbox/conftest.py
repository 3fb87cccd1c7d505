"""Tests that take `engine` run once on each; on kvm they are skipped, and say so, where the machine has none that works.

`guest` is a process whose calls are made directly.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.engines import kvm_probe
from sandbox.program import Convention
from sandbox.request import GuestRequest
from sandbox.vm import Template
from tests.unit.sandbox.calls_support import Guest, make


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


@pytest.fixture(name="template", scope="module")
def template_fixture() -> Iterator[Template]:
    template = make(Convention.CGI)
    yield template
    template.close()


@pytest.fixture(name="guest")
def guest_fixture(template: Template) -> Iterator[Guest]:
    guest = Guest(template, GuestRequest((), b"the body"))
    yield guest
    guest.close()
