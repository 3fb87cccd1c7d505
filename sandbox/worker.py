"""A worker: one jailed process with one vCPU thread that runs one slice at a time of whatever the monitor asks for.

`main` is a forked process's whole life: the jail, then `serving.py`'s loop. Called by `zygote.py`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import NoReturn

from sandbox import jail
from sandbox.channel import wire
from sandbox.channel.frames import BlockingChannel
from sandbox.confinement.cgroup import CgroupParent
from sandbox.engines import kvm, kvm_trial
from sandbox.engines.watchdog import watchdog
from sandbox.errors import EngineUnavailable, JailError
from sandbox.jail import JailPolicy
from sandbox.limits import SECOND_NS
from sandbox.pages import faults
from sandbox.pages.pagemap import open_pagemap
from sandbox.serving import Worker

__all__ = ["Worker", "main"]


def main(sock: socket.socket, policy: JailPolicy, parent: int, cgroup: CgroupParent) -> NoReturn:
    """Enter a control group and the jail and serve; never returns, and runs none of the forking process's exit handlers."""
    status = 70
    try:
        channel = BlockingChannel(sock, wire.TO_WORKER, wire.TO_WORKER_BYTES, poll_ns=policy.poll_ns)
        try:
            report = jail.enter(
                policy,
                parent,
                [sock.fileno()],
                open_files=lambda: _open_files(policy),
                start=lambda: _start(policy),
                cgroup=cgroup,
            )
            channel.send(wire.Hello(report))
            Worker(channel).serve()
            status = 0
        except (JailError, EngineUnavailable) as error:
            channel.send(wire.Refused(str(error)))
    finally:
        os._exit(status)


def _open_files(policy: JailPolicy) -> None:
    """What a jailed process cannot open any more. Raises EngineUnavailable."""
    open_pagemap()
    faults.prepare()
    if policy.engine == "kvm":
        kvm.prepare()


def _start(policy: JailPolicy) -> None:
    """The one thread beside the vCPU's must run before threads are forbidden, and a trial before there are guests."""
    clock = time.pthread_getcpuclockid(threading.get_ident())
    dog = watchdog()
    dog.disarm(dog.arm(clock, time.clock_gettime_ns(clock) + SECOND_NS, lambda: None))
    if policy.engine == "kvm":
        kvm_trial.proven()
