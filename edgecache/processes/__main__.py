"""`python -m edgecache.processes FD`: one serving process, started by `serving_process` with its channel on descriptor FD."""

from __future__ import annotations

import socket
import sys

from edgecache.processes.entry import prepare, run_loop
from edgecache.processes.serving import Serving


async def _run(channel: socket.socket) -> int:
    return await Serving().run(channel)


def main(arguments: list[str]) -> int:
    """Serve on the inherited channel; the exit code."""
    prepare()
    (descriptor,) = (int(argument) for argument in arguments)
    return run_loop(_run(socket.socket(fileno=descriptor)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
