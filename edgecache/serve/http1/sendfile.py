"""File bytes to a client's socket by sendfile(2): the kernel copies them, Python sees none of them. Plain connections only.

`sending` calls it once the transport has nothing left to write. uvloop has no sendfile, and lets nobody else wait for
a transport's socket: a duplicate of its descriptor is waited for instead.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

_AT_ONCE: Final = 512 << 10
"""Bytes given to the kernel before the event loop does something else."""


async def send_file(sock: int, file: int, offset: int, count: int, *, stall_seconds: float) -> None:
    """Send `count` bytes of `file` from `offset`. ConnectionError: the client has gone; TimeoutError: it takes nothing."""
    loop = asyncio.get_running_loop()
    out = os.dup(sock)
    try:
        os.posix_fadvise(file, offset, count, os.POSIX_FADV_WILLNEED)
        while count > 0:
            try:
                done = os.sendfile(out, file, offset, min(count, _AT_ONCE))
            except BlockingIOError:
                await _writable(loop, out, stall_seconds)
                continue
            if done == 0:
                raise ConnectionResetError("the file ends early")
            offset += done
            count -= done
            await asyncio.sleep(0)
    finally:
        os.close(out)


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int, seconds: float) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(descriptor, wake)
    try:
        async with asyncio.timeout(seconds):
            await ready
    finally:
        loop.remove_writer(descriptor)
