"""The process that workers are forked from: started clean, with every import done, holding no secret and one channel.

`python -m sandbox.zygote FD PARENT` speaks `wire` with the monitor on descriptor FD: Spawn in; Spawned with the worker's channel
and a pidfd, and later Died, out. It ends, and every worker with it, when the monitor does. Started by `dispatch/spawner.py`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress

import sandbox.engines.unicorn  # noqa: F401  for the workers: they cannot import any more
from sandbox import jail, worker
from sandbox.channel import wire
from sandbox.channel.frames import BlockingChannel
from sandbox.confinement import cgroup

MAX_WORKERS = 4096
"""A monitor that asks for more has gone mad."""


class Zygote:
    """Forks, reaps, reports. One thread; forking is only safe while that is so."""

    def __init__(self, channel: BlockingChannel[wire.ToZygote], group: cgroup.CgroupParent) -> None:
        self._channel = channel
        self._group = group
        self._workers: dict[int, int] = {}
        """Process ids by pidfd."""
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def serve(self) -> None:
        """Serve until the monitor's end. Raises WireError, OSError: the monitor's channel is unusable."""
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._channel.fileno():
                    self._reap(fd)
                elif not self._listen():
                    return

    def close(self) -> None:
        """Kill and reap every worker."""
        for pidfd, pid in self._workers.items():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pidfd)
            self._group.remove(pid)
        self._workers.clear()
        self._group.close()
        self._channel.close()

    def _listen(self) -> bool:
        while True:
            message = self._channel.receive()
            if message is None:
                return False
            self._spawn(message)
            if not self._channel.pending:
                return True

    def _spawn(self, message: wire.Spawn) -> None:
        if len(self._workers) >= MAX_WORKERS:
            self._channel.send(wire.SpawnFailed(message.serial, f"{MAX_WORKERS} workers are alive"))
            return
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._channel.send(wire.SpawnFailed(message.serial, str(error)))
            return
        with ours, theirs:
            zygote = os.getpid()
            try:
                pid = os.fork()
            except OSError as error:
                self._channel.send(wire.SpawnFailed(message.serial, str(error)))
                return
            if pid == 0:
                worker.main(theirs, message.policy, zygote, self._group)
            pidfd = os.pidfd_open(pid)
            self._workers[pidfd] = pid
            self._poll.register(pidfd, select.POLLIN)
            self._channel.send(wire.Spawned(message.serial, pid), (ours.fileno(), pidfd))

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid = self._workers.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._group.remove(pid)
        self._channel.send(wire.Died(pid, os.waitstatus_to_exitcode(status)))


def main(arguments: list[str]) -> int:
    """Serve on the inherited channel. Returns the exit status."""
    fd, parent = (int(argument) for argument in arguments)
    jail.die_with(parent)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # not in a terminal's foreground, it may still have to say why it fails
    channel = BlockingChannel(socket.socket(fileno=fd), wire.TO_ZYGOTE, wire.ZYGOTE_BYTES)
    zygote = Zygote(channel, cgroup.prepare([parent]))
    gc.collect()
    gc.freeze()
    try:
        zygote.serve()
    except BrokenPipeError:
        return 0
    finally:
        zygote.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
