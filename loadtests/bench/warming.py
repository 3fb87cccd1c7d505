"""Has a server store a row's URLs before it is measured: many connections, each URL once, within a bounded time.

wrk cannot do this: it runs for the whole duration that it was given, whatever its script says.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from demo.processes import DemoError

CONNECTIONS = 32
WITHIN_S = 30.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


def warm(url: str, targets: list[str], size_bytes: int) -> None:
    """GET each of `targets` once from the server at `url`. Raises DemoError: not in time, or not `size_bytes` of body each."""
    asyncio.run(_warm(url, targets, size_bytes))


async def _warm(url: str, targets: list[str], size_bytes: int) -> None:
    left = iter(targets)
    try:
        async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            for _ in range(min(CONNECTIONS, len(targets))):
                group.create_task(_ask(url, left, size_bytes))
    except TimeoutError as error:
        raise DemoError(
            f"{url} has not stored {len(targets)} URLs within {WITHIN_S:g} s; {len(list(left))} were not asked"
        ) from error
    except ExceptionGroup as errors:
        raise DemoError(f"{url} could not be filled: {errors.exceptions[0]}") from errors


async def _ask(url: str, targets: Iterator[str], size_bytes: int) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=256 << 10)
    try:
        for target in targets:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 200 ") or found is None or int(found[1]) != size_bytes:
                raise OSError(f"{target} was answered with {head[:200]!r}")
            await reader.readexactly(size_bytes)
    finally:
        writer.close()
