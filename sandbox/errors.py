"""The sandbox's exceptions. One root; subclasses for what a caller can tell apart."""

from __future__ import annotations

from sandbox.outcome import Outcome


class SandboxError(Exception):
    """Root of everything the sandbox raises on purpose."""


class ImageError(SandboxError):
    """The program is not one this machine can run. The message says what is wrong and what would be right."""


class GuestFailed(SandboxError):
    """A request ended otherwise than finished. `outcome.end` says how, `outcome.detail` why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"{outcome.end}: {outcome.detail}" if outcome.detail else str(outcome.end))
        self.outcome = outcome


class EngineUnavailable(SandboxError):
    """The asked-for engine cannot run guests on this machine."""


class JailError(SandboxError):
    """A required layer of the jail could not be applied."""


class WorkerLost(SandboxError):
    """A worker or the zygote died, or its channel broke."""
