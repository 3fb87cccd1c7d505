"""Whether KVM is good for guests here: a tiny one is run. A /dev/kvm that opens may still lack what the engine relies on."""

from __future__ import annotations

import struct
from typing import Final

from sandbox.engines.base import CpuState, SystemCall
from sandbox.engines.kvm import KvmVcpu
from sandbox.errors import EngineUnavailable
from sandbox.limits import MILLISECOND_NS
from sandbox.memory import FrozenMemory
from sandbox.outcome import Fault, FaultKind
from sandbox.pages.paging import PAGE, Layout, page_flags

_BASE: Final = 0x400000
_DATA: Final = _BASE + PAGE
_NUMBER: Final = 0x5EED
_CODE: Final = (
    b"\xb8" + struct.pack("<I", _NUMBER)  # mov eax, number
    + b"\x8b\x3c\x25" + struct.pack("<I", _DATA)  # mov edi, [data]
    + b"\xc6\x04\x25" + struct.pack("<IB", _DATA + 4, 1)  # mov byte [data + 4], 1
    + b"\x0f\x05"  # syscall
    + b"\xeb\xe8"  # jmp to the start
)  # fmt: skip
_SLICE_NS: Final = 500 * MILLISECOND_NS
_NO_FPU: Final = struct.pack("<HHHHQQII", 0x37F, 0, 0, 0, 0, 0, 0x1F80, 0).ljust(512, b"\0")


def obstacle() -> str:
    """Why the kvm engine is of no use here, empty when it is.

    Tried are a system call, a page that is written, and a fault on one that was taken away.
    """
    try:
        return _try()
    except (EngineUnavailable, OSError) as error:
        return str(error)


def _try() -> str:
    template = FrozenMemory.build(
        Layout(_BASE, 2 * PAGE),
        [(0, _CODE), (PAGE, struct.pack("<I", 7))],
        {
            _BASE // PAGE: page_flags(read=True, write=False, execute=True),
            _DATA // PAGE: page_flags(read=True, write=True, execute=False),
        },
        ((0, PAGE),),
    )
    memory = template.fork()
    vcpu = None
    try:
        vcpu = KvmVcpu(memory)
        vcpu.load(CpuState((0,) * 16, _BASE, 0, 0, 0, _NO_FPU))
        memory.written()
        for _ in range(2):
            stop = vcpu.run(_SLICE_NS)
            if not isinstance(stop, SystemCall) or (stop.number, stop.args[0]) != (_NUMBER, 7):
                return f"a system call of a trial guest came as {stop}"
            vcpu.complete(0)
        if memory.written() != [(PAGE, 2 * PAGE)]:
            return "a page that a trial guest has written is not told"
        memory.drop_pages(_DATA, _DATA + PAGE)
        vcpu.memory_changed()
        fault = vcpu.run(_SLICE_NS)
        if not isinstance(fault, Fault) or (fault.kind, fault.address) != (FaultKind.READ, _DATA):
            return f"a fault of a trial guest came as {fault}"
        return ""
    finally:
        if vcpu is not None:
            vcpu.close()
        memory.close()
        template.close()
