"""Landlock with nothing allowed: no path, no TCP port, no signal or abstract socket out of the domain (landlock(7)).

One function over three raw system calls, for the C library has no wrappers. Called by `jail.py`.
"""

from __future__ import annotations

import ctypes
import os
import struct

from sandbox.errors import JailError

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION_FLAG = 1

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""First ABI with so many rights on files: linux/landlock.h numbers them from bit 0 in the order of their arrival."""
_NET_ABI, _NET_RIGHTS = 4, 2
_SCOPE_ABI, _SCOPES = 6, 2


def abi() -> int:
    """The kernel's Landlock version; 0 when it has none or has it switched off."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def ruleset(version: int) -> bytes:
    """struct landlock_ruleset_attr that handles everything `version` knows, and so forbids it all."""
    files = max(bits for since, bits in _FILE_RIGHTS.items() if since <= version)
    fields = [(1 << files) - 1]
    if version >= _NET_ABI:
        fields.append((1 << _NET_RIGHTS) - 1)
    if version >= _SCOPE_ABI:
        fields.append((1 << _SCOPES) - 1)
    return struct.pack(f"<{len(fields)}Q", *fields)


def restrict() -> None:
    """Put this thread, and those it will start, under an empty rule set. Needs no-new-privs. Raises JailError."""
    version = abi()
    if not version:
        raise JailError("the kernel has no Landlock")
    attributes = ruleset(version)
    fd = int(_LIBC.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    if fd < 0:
        raise JailError(f"landlock_create_ruleset: {os.strerror(ctypes.get_errno())}")
    try:
        if _LIBC.syscall(_RESTRICT_SELF, fd, 0):
            raise JailError(f"landlock_restrict_self: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)
