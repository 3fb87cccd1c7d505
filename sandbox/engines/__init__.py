"""What executes a guest's instructions. `create` is the only place that knows the engines by name."""

from __future__ import annotations

import functools
import logging

from sandbox.engines.base import Vcpu
from sandbox.errors import EngineUnavailable
from sandbox.memory import GuestMemory

_log = logging.getLogger(__name__)

ENGINES = ("auto", "unicorn", "kvm")


def create(engine: str, memory: GuestMemory) -> Vcpu:
    """A vCPU over `memory`. Raises EngineUnavailable for an engine that this machine or this version does not have."""
    if engine not in ENGINES:
        raise EngineUnavailable(f"there is no engine {engine!r} here; there is: {', '.join(ENGINES)}")
    if resolve(engine) == "kvm":
        from sandbox.engines.kvm import KvmVcpu  # noqa: PLC0415 -- as Unicorn below
        from sandbox.engines.kvm_trial import proven  # noqa: PLC0415

        return KvmVcpu(memory, may_restore=proven)
    try:
        from sandbox.engines.unicorn import UnicornVcpu  # noqa: PLC0415 -- loading Unicorn takes long; parsing needs none
    except ImportError as error:
        raise EngineUnavailable(f"the unicorn engine cannot be loaded: {error}") from error
    return UnicornVcpu(memory)


@functools.cache
def resolve(engine: str) -> str:
    """The engine that a name stands for: `auto` is kvm where a small guest proves that it works, else unicorn."""
    if engine != "auto":
        return engine
    from sandbox.engines.kvm_probe import obstacle  # noqa: PLC0415 -- only who asks pays for the trial

    reason = obstacle()
    if reason:
        _log.info("the unicorn engine is used, for kvm cannot be: %s", reason)
    return "unicorn" if reason else "kvm"


def choose(engine: str) -> str:
    """As `resolve`, for who starts workers. Raises EngineUnavailable when kvm is asked for by name and cannot be."""
    if engine == "kvm":
        from sandbox.engines.kvm_probe import obstacle  # noqa: PLC0415 -- as above

        reason = obstacle()
        if reason:
            raise EngineUnavailable(f"{reason}; use --engine unicorn, or auto")
    return resolve(engine)
