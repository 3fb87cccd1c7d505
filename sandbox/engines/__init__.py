"""What executes a guest's instructions. `create` is the only place that knows the engines by name."""

from __future__ import annotations

from sandbox.engines.base import Vcpu
from sandbox.errors import EngineUnavailable
from sandbox.memory import GuestMemory

ENGINES = ("auto", "unicorn")


def create(engine: str, memory: GuestMemory) -> Vcpu:
    """A vCPU over `memory`. Raises EngineUnavailable for an engine that this machine or this version does not have."""
    if engine not in ENGINES:
        raise EngineUnavailable(f"there is no engine {engine!r} here; there is: {', '.join(ENGINES)}")
    try:
        from sandbox.engines.unicorn import UnicornVcpu  # noqa: PLC0415 -- loading Unicorn takes long; parsing needs none
    except ImportError as error:
        raise EngineUnavailable(f"the unicorn engine cannot be loaded: {error}") from error
    return UnicornVcpu(memory)
