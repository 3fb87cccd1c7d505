"""The initial stack of a new process: arguments, environment and auxiliary vector (System V ABI, AMD64 supplement, 3.4.1).

Pure bytes: `template.py` puts it in a template, `vm.py` in a `cgi` program's fork, anew for every request.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final

from sandbox.engines.cpuid import cpuid
from sandbox.image import Image
from sandbox.pages.paging import PAGE

_AT_PHDR, _AT_PHENT, _AT_PHNUM, _AT_PAGESZ, _AT_BASE, _AT_FLAGS, _AT_ENTRY = 3, 4, 5, 6, 7, 8, 9
_AT_UID, _AT_EUID, _AT_GID, _AT_EGID, _AT_PLATFORM, _AT_HWCAP, _AT_CLKTCK = 11, 12, 13, 14, 15, 16, 17
_AT_SECURE, _AT_RANDOM, _AT_EXECFN = 23, 25, 31
_RANDOM_BYTES: Final = 16
_HEADER_BYTES: Final = 56


def initial_stack(image: Image, top: int, args: Sequence[bytes], environ: Sequence[tuple[bytes, bytes]]) -> bytes:
    """What stands at [top - len(result), top); the first byte is where the stack pointer starts.

    AT_RANDOM, from which a C library takes its stack canary, is fresh at each call: a `cgi` program has one of its own at every
    request. A `resident` one gets it at boot, so all requests to one version share its canary.
    """
    strings = bytearray()
    places: list[int] = []
    for text in (*args, *(name + b"=" + value for name, value in environ), b"x86_64"):
        places.append(len(strings))
        strings += text + b"\0"
    random = len(strings)
    strings += os.urandom(_RANDOM_BYTES)
    strings += b"\0" * (-len(strings) % 16)
    start = top - len(strings)
    addresses = [start + place for place in places]
    argv, envp, platform = addresses[: len(args)], addresses[len(args) : -1], addresses[-1]
    vector = {
        _AT_PHDR: image.header_address,
        _AT_PHENT: _HEADER_BYTES,
        _AT_PHNUM: image.header_count,
        _AT_PAGESZ: PAGE,
        _AT_BASE: 0,
        _AT_FLAGS: 0,
        _AT_ENTRY: image.entry,
        _AT_UID: 0,
        _AT_EUID: 0,
        _AT_GID: 0,
        _AT_EGID: 0,
        _AT_PLATFORM: platform,
        _AT_HWCAP: cpuid(1)[3],
        _AT_CLKTCK: 100,
        _AT_SECURE: 0,
        _AT_RANDOM: start + random,
        _AT_EXECFN: argv[0],
    }
    words = [len(argv), *argv, 0, *envp, 0]
    for key, value in vector.items():
        words += (key, value)
    words += (0, 0)
    if len(words) % 2:
        words.append(0)  # behind AT_NULL, so that the stack pointer is a multiple of 16
    return struct.pack(f"<{len(words)}Q", *words) + bytes(strings)
