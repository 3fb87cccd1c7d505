"""What the monitor's tests share: guests built from C, a monitor with small numbers, and readers of answers."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from sandbox import (
    DEFAULT_LIMITS,
    Convention,
    GuestCall,
    GuestFailed,
    GuestRequest,
    Limits,
    Monitor,
    Outcome,
    Program,
)
from sandbox.limits import SECOND_NS
from sandbox.monitor import NoEdge
from sandbox.sdk.build import compile_c

PROBE = r"""
#include <stdlib.h>
#include "edge.h"

static edge_request req;
static char buffer[1 << 20];
static volatile long sink;
static volatile int memory_of_last_request;

static void say(const char *text) {
    edge_response res;
    edge_begin(&res, 200, "text/plain");
    edge_print(&res, text);
    edge_end(&res);
}

int main(void) {
    while (edge_next(&req)) {
        const char *path = req.path;
        if (strcmp(path, "/ok") == 0) say("ok");
        else if (strcmp(path, "/count") == 0) say(memory_of_last_request++ ? "dirty" : "clean");
        else if (strcmp(path, "/spin") == 0) for (;;) sink++;
        else if (strcmp(path, "/work") == 0) {
            for (long i = 0; i < 20000000; i++) sink += i;
            say("worked");
        } else if (strcmp(path, "/fault") == 0) *(volatile int *)8 = 1;
        else if (strcmp(path, "/silent") == 0) continue;
        else if (strcmp(path, "/exit") == 0) exit(3);
        else if (strcmp(path, "/log") == 0) { edge_log("one line"); say("logged"); }
        else if (strcmp(path, "/start-then-spin") == 0) {
            edge_call(EDGE_RESPOND, "head", 4, NULL, 0);
            edge_call(EDGE_KV_GET, "x", 1, buffer, sizeof buffer);
            for (;;) sink++;
        } else if (strcmp(path, "/flood") == 0) {
            for (;;) if (edge_call(EDGE_RESPOND, buffer, 65536, NULL, 0) < 0) break;
        } else if (strcmp(path, "/stream") == 0) {
            for (int i = 0; i < 64; i++) edge_call(EDGE_RESPOND, buffer, 65536, NULL, 0);
        } else if (strcmp(path, "/twice") == 0) {
            for (int i = 0; i < 2; i++) edge_call(EDGE_RESPOND, buffer, 32768 - 1, NULL, 0);
        } else if (strcmp(path, "/huge") == 0) {
            char *many = calloc(3, 1 << 20);
            edge_call(EDGE_RESPOND, many, 3 << 20, NULL, 0);
        } else if (strcmp(path, "/fetch") == 0) {
            long length = edge_call(EDGE_FETCH, "GET /", 5, buffer, sizeof buffer);
            edge_response res;
            edge_begin(&res, 200, "text/plain");
            if (length < 0) edge_printf(&res, "errno %ld", -length); else edge_write(&res, buffer, (size_t)length);
            edge_end(&res);
        } else if (strcmp(path, "/kv") == 0) {
            edge_response res;
            edge_begin(&res, 200, "text/plain");
            edge_printf(&res, "get %ld", edge_call(EDGE_KV_GET, "k", 1, buffer, sizeof buffer));
            edge_printf(&res, " put %ld", edge_call(EDGE_KV_PUT, "k", 1, "value", 5));
            edge_printf(&res, " get %ld", edge_call(EDGE_KV_GET, "k", 1, buffer, sizeof buffer));
            edge_end(&res);
        } else if (strcmp(path, "/length") == 0) {
            edge_response res;
            edge_begin(&res, 200, "text/plain");
            edge_printf(&res, "%lu", (unsigned long)req.body_length);
            edge_end(&res);
        } else say("?");
    }
    return 1;
}
"""

BOOT_SPINS = "int main(void) { volatile long n = 0; for (;;) n++; }"
BOOT_FAULTS = "int main(void) { *(volatile int *)8 = 1; return 0; }"
SLOW_BOOT = r"""
#include "edge.h"
static edge_request req;
int main(void) {
    volatile long n = 0;
    for (long i = 0; i < 3000000; i++) n += i;
    while (edge_next(&req)) edge_respond(200, "text/plain", "booted");
    return 1;
}
"""
CGI = r"""
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    char body[64] = "";
    size_t length = fread(body, 1, 63, stdin);
    const char *query = getenv("QUERY_STRING");
    printf("Status: 200\r\n\r\n%s %.*s", query ? query : "-", (int)length, body);
    return 0;
}
"""
WALL_NS = 60 * SECOND_NS
"""Generous: no test but those of the deadline itself may depend on the speed of the machine."""
LIMITS = replace(DEFAULT_LIMITS, wall_ns=WALL_NS, cpu_ns=20 * SECOND_NS, boot_cpu_ns=20 * SECOND_NS)


@functools.cache
def built(source: str) -> bytes:
    """A guest's executable; built once, and kept between runs."""
    folder = Path(tempfile.gettempdir()) / f"edgecache-test-guests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    header = Path(compile_c.__code__.co_filename).with_name("edge.h").read_text()
    name = hashlib.sha256(f"{header}\0{source}".encode()).hexdigest()[:20]
    executable = folder / name
    if not executable.exists():
        code = folder / f"{name}.c"
        code.write_text(source)
        compile_c([code], executable)
    return executable.read_bytes()


def resident(source: str = PROBE) -> Program:
    return Program(built(source), Convention.RESIDENT)


def get(path: str, body: bytes = b"") -> GuestRequest:
    return GuestRequest(((b"REQUEST_METHOD", b"POST" if body else b"GET"), (b"PATH_INFO", path.encode())), body)


def limits(**changes: int) -> Limits:
    return replace(LIMITS, **changes)


class Edge(NoEdge):
    """An edge whose answers are set by the test; `entered` is set when a guest asks for something."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.answer: bytes | Exception = b"fetched"
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()

    async def fetch(self, data: bytes) -> bytes:
        self.entered.set()
        await self.release.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def kv_get(self, key: bytes) -> bytes | None:
        self.entered.set()
        await self.release.wait()
        return self.kept.get(key)

    async def kv_put(self, key: bytes, value: bytes) -> bool:
        self.kept[key] = value
        return True


def begin(monitor: Monitor, path: str, *, key: str = "probe", edge: NoEdge | None = None, body: bytes = b"") -> GuestCall:
    return monitor.call(key, get(path, body), edge=edge or NoEdge(), log=lambda _: None)


async def read(call: GuestCall) -> bytes:
    """The answer's body. Raises GuestFailed."""
    output = b"".join([chunk async for chunk in call])
    return output.partition(b"\r\n\r\n")[2]


async def ask(monitor: Monitor, path: str, *, key: str = "probe", edge: NoEdge | None = None, body: bytes = b"") -> bytes:
    return await read(begin(monitor, path, key=key, edge=edge, body=body))


async def ending(call: GuestCall) -> Outcome:
    """How it ends, whatever it sends."""
    try:
        async for _ in call:
            pass
    except GuestFailed as failed:
        assert failed.outcome is call.outcome
    assert call.outcome is not None
    return call.outcome


async def until(condition: object, seconds: float = 30.0) -> None:
    """Poll a condition that nothing announces."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
