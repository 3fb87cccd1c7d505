"""Serving one edge call of a guest: bounded in time, and an errno for everything that goes wrong.

Knows the three calls that leave the sandbox, nothing of queues and workers. Called by `requests.py`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from sandbox.call import EdgeCallRefused, EdgeCalls
from sandbox.channel import wire
from sandbox.limits import MIB

MAX_ANSWER_BYTES = 16 * MIB
"""More than a guest can ask for at once, and far from what a frame to a worker holds."""
_log = logging.getLogger(__name__)


async def answer_in_turn(
    turn: Callable[[], asyncio.Future[None] | None],
    edge: EdgeCalls,
    wanted: wire.WantsAnswer,
    timeout_s: float,
    answered: Callable[[int | bytes], None],
) -> None:
    """Answer it once `turn` lets it pass, and hand the answer over."""
    waiting = turn()
    if waiting is not None:
        await waiting
    answered(await answer_edge_call(edge, wanted, timeout_s))


async def answer_edge_call(edge: EdgeCalls, wanted: wire.WantsAnswer, timeout_s: float) -> int | bytes:
    """What the guest gets: bytes, or a result that is negative on failure (errno(3))."""
    try:
        async with asyncio.timeout(timeout_s):
            match wanted.kind:
                case "fetch":
                    return _bounded(await edge.fetch(wanted.data))
                case "kv-get":
                    found = await edge.kv_get(wanted.data)
                    return -errno.ENOENT if found is None else _bounded(found)
                case "kv-put":
                    return 0 if await edge.kv_put(wanted.data, wanted.value) else -errno.ENOSPC
                case _:
                    return -errno.ENOSYS
    except EdgeCallRefused as refused:
        return -abs(refused.number)
    except TimeoutError:
        return -errno.ETIMEDOUT
    except Exception:
        _log.exception("edge call %s failed", wanted.kind)
        return -errno.EIO


def _bounded(answer: bytes) -> int | bytes:
    """No frame to a worker may grow past its bound."""
    return answer if len(answer) <= MAX_ANSWER_BYTES else -errno.EMSGSIZE
