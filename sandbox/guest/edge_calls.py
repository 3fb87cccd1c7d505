"""The calls from 0x45440000: how a program meets its edge.

`next_request`, `respond` and `finish` are for `resident` programs; log, fetch and the key-value calls are for both conventions.
"""

from __future__ import annotations

import errno
from typing import Final

from sandbox.guest.access import CallError
from sandbox.guest.actions import AskMonitor, HostCallKind, NextRequest
from sandbox.guest.file_calls import put_log
from sandbox.guest.process import Process
from sandbox.program import Convention

MAX_FETCH: Final = 64 << 10
MAX_KEY: Final = 1024
MAX_VALUE: Final = 1 << 20
MAX_ANSWER: Final = 16 << 20


def next_request(process: Process, address: int, length: int, *_: int) -> NextRequest:
    """next_request(buf, len): ends the current request; the next one's SCGI frame is put into buf and its length returned."""
    _resident(process)
    return NextRequest(address, length)


def respond(process: Process, address: int, length: int, *_: int) -> int:
    """respond(buf, len): sends a piece of the CGI-shaped answer; returns 0. Before the first request it is EINVAL."""
    _resident(process)
    exchange = process.exchange
    if exchange.request is None:
        raise CallError(errno.EINVAL)
    exchange.check_output(length)
    exchange.put_output(process.access.read(address, length))
    return 0


def finish(process: Process, address: int, length: int, request: int, request_length: int, *_: int) -> NextRequest:
    """finish(buf, len, next, nextlen): `respond` and then `next_request` in one stop; where the first fails, that alone."""
    respond(process, address, length)
    return NextRequest(request, request_length)


def log(process: Process, address: int, length: int, *_: int) -> int:
    """log(buf, len): for the program's owner; returns 0."""
    process.exchange.count_edge_call()
    put_log(process, address, length)
    return 0


def fetch(process: Process, request: int, request_length: int, address: int, length: int, *_: int) -> AskMonitor:
    """fetch(req, reqlen, buf, buflen): bytes of the answer, or -errno; E2BIG when it does not fit."""
    _count(process)
    process.exchange.count_sub_request()
    data = _argument(process, request, request_length, MAX_FETCH)
    return _ask(process, HostCallKind.FETCH, data, address, length)


def kv_get(process: Process, key: int, key_length: int, address: int, length: int, *_: int) -> AskMonitor:
    """kv_get(key, keylen, buf, buflen): the value, cut to buflen; its whole length, or -ENOENT."""
    _count(process)
    return _ask(process, HostCallKind.KV_GET, _argument(process, key, key_length, MAX_KEY), address, length)


def kv_put(process: Process, key: int, key_length: int, value: int, value_length: int, *_: int) -> AskMonitor:
    """kv_put(key, keylen, val, vallen): 0, or -errno."""
    _count(process)
    name = _argument(process, key, key_length, MAX_KEY)
    return AskMonitor(HostCallKind.KV_PUT, name, _argument(process, value, value_length, MAX_VALUE))


def _resident(process: Process) -> None:
    if process.convention is not Convention.RESIDENT:
        raise CallError(errno.ENOSYS)


def _count(process: Process) -> None:
    process.exchange.count_edge_call()
    if process.exchange.request is None:
        raise CallError(errno.EAGAIN)


def _argument(process: Process, address: int, length: int, most: int) -> bytes:
    if length > most:
        raise CallError(errno.E2BIG)
    return process.access.read(address, length)


def _ask(process: Process, kind: HostCallKind, data: bytes, address: int, length: int) -> AskMonitor:
    length = min(length, MAX_ANSWER)
    process.access.check(address, length, write=True)
    return AskMonitor(kind, data, address=address, length=length)
