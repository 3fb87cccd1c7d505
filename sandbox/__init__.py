"""The sandbox: untrusted programs in virtual machines of their own, in jailed processes. Knows nothing of HTTP.

What is named here is the public surface; everything else is private by place.
"""

from sandbox.call import EdgeCallRefused, EdgeCalls, GuestCall
from sandbox.dispatch.policies import DispatchPolicy, Isolation, MonitorPolicy, PoolPolicy
from sandbox.dispatch.quarantine import QuarantinePolicy
from sandbox.errors import EngineUnavailable, GuestFailed, ImageError, JailError, SandboxError, WorkerLost
from sandbox.jail import JailPolicy, JailReport, Layer
from sandbox.limits import DEFAULT_LIMITS, Limits
from sandbox.monitor import Monitor
from sandbox.outcome import End, Fault, FaultKind, Outcome, Usage
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.shares import DEFAULT_CLUSTER, ClusterShare, SiteShare
from sandbox.status import GeneratorStatus, MonitorStatus, ShareStatus, Verification, WorkerStatus

__all__ = [
    "DEFAULT_CLUSTER",
    "DEFAULT_LIMITS",
    "ClusterShare",
    "Convention",
    "DispatchPolicy",
    "EdgeCallRefused",
    "EdgeCalls",
    "End",
    "EngineUnavailable",
    "Fault",
    "FaultKind",
    "GeneratorStatus",
    "GuestCall",
    "GuestFailed",
    "GuestRequest",
    "ImageError",
    "Isolation",
    "JailError",
    "JailPolicy",
    "JailReport",
    "Layer",
    "Limits",
    "Monitor",
    "MonitorPolicy",
    "MonitorStatus",
    "Outcome",
    "PoolPolicy",
    "Program",
    "QuarantinePolicy",
    "SandboxError",
    "ShareStatus",
    "SiteShare",
    "Usage",
    "Verification",
    "WorkerLost",
    "WorkerStatus",
]
