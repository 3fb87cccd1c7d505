"""Whether ring 3 may load its own floating-point state here (`restoring`): tried, and compared with what KVM itself does.

A trial guest fills every register that the processor has enabled, is then sent back to a state in both ways, and saves what it
finds: KVM would not tell all of it. Asked by `kvm.KvmVcpu`, to which `create` hands it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from sandbox.engines import restoring
from sandbox.engines.base import CpuState, SystemCall
from sandbox.engines.kvm import KvmVcpu
from sandbox.errors import EngineUnavailable
from sandbox.limits import MILLISECOND_NS
from sandbox.memory import FrozenMemory, GuestMemory
from sandbox.pages.paging import PAGE, Layout, page_flags

_BASE: Final = 0x400000
_FILL: Final = _BASE + 0x100
_BACK: Final = _BASE + PAGE - 0x40
_DATA: Final = _BASE + PAGE
_SAVED: Final = _DATA + PAGE
"""Where the guest saves: 2696 bytes for all of _KNOWN (CPUID 0DH)."""
_CONTROL: Final = struct.pack("<fHHI", 1.5, 0x0E7F, 0, 0x7FBF)
"""A number, FCW and MXCSR; the last two with another rounding and, in MXCSR, all flags."""
_SYSCALL: Final = b"\x0f\x05"
_AGAIN: Final = _SYSCALL + b"\xff\xe0"
"""And on to where the answer says: jmp rax."""
_COMPONENTS: Final = b"\x31\xc9\x0f\x01\xd0\x89\xc7\x89\xd6" + _AGAIN
"""xor ecx, ecx; xgetbv; mov edi, eax; mov esi, edx: XCR0, which says what there is to fill."""
_X87_SSE, _AVX, _AVX512 = 0x03, 0x04, 0xE0
_KNOWN: Final = frozenset({_X87_SSE, _X87_SSE | _AVX, _X87_SSE | _AVX | _AVX512})
_XSTATE_BV: Final = 2 * PAGE + 512
"""In guest-physical memory."""
_SLICE_NS: Final = 500 * MILLISECOND_NS
_ALL: Final = (1 << 32) - 1
_SAVE: Final = b"\x48\x0f\xae\x24\x25" + struct.pack("<I", _SAVED) + _AGAIN
"""xsave64 of what EDX and EAX name."""


_proofs: list[bool] = []


def proven() -> bool:
    """What `restores` says: tried once in this process."""
    if not _proofs:
        _proofs.append(restores())
    return _proofs[0]


def restores() -> bool:
    """Both ways lead to the same registers, byte for byte."""
    try:
        known, ours = _sent_back(own=False), _sent_back(own=True)
    except (EngineUnavailable, OSError):
        return False
    return known is not None and known == ours


@dataclass(frozen=True, slots=True)
class _Seen:
    stop: SystemCall
    state: CpuState
    saved: bytes


def _state() -> CpuState:
    """Where the guest is sent: to where it saves all, with something in every register."""
    legacy = struct.pack("<HHBBHQQII", 0x37F, 0, 0xFF, 0, 0, 0, 0, 0x1F80, 0)
    numbers = b"".join(struct.pack("<QHxxxxxx", 1 << 63 | n, 0x3FFF) for n in range(8))
    vectors = bytes(range(256))
    gprs = tuple(0x1111_1111_1111_1111 * n for n in range(1, 16))
    gprs = (0, gprs[0], _BACK, _ALL, *gprs[3:6], _DATA, *gprs[7:])
    return CpuState(gprs, _BACK, 0x8D5, 0x1000, 0x2000, (legacy + numbers + vectors).ljust(512, b"\0"))


def _sent_back(*, own: bool) -> _Seen | None:
    """None where the trial cannot say anything: without xgetbv, or with components that it cannot fill."""
    layout, state = Layout(_BASE, 3 * PAGE), _state()
    code = [(_BASE, _COMPONENTS), *_fillings(), (_BACK, _SAVE)]
    contents = [(at - _BASE, content) for at, content in (*code, (_DATA, _CONTROL))]
    template = FrozenMemory.build(
        layout,
        [*contents, restoring.piece(layout, state)] if own else contents,
        {
            _BASE // PAGE: page_flags(read=True, write=False, execute=True),
            _DATA // PAGE: page_flags(read=True, write=False, execute=False),
            _SAVED // PAGE: page_flags(read=True, write=True, execute=False),
        },
        ((0, PAGE),),
    )
    memory = template.fork()
    vcpu = None
    try:
        vcpu = KvmVcpu(memory, may_restore=lambda: own)
        return _filled_and_sent(vcpu, memory, state)
    finally:
        if vcpu is not None:
            vcpu.close()
        memory.close()
        template.close()


def _filled_and_sent(vcpu: KvmVcpu, memory: GuestMemory, state: CpuState) -> _Seen | None:
    vcpu.load(CpuState((0,) * 16, _BASE, 0, 0, 0, state.fpu))
    asked = vcpu.run(_SLICE_NS)
    if not isinstance(asked, SystemCall) or asked.args[1] or asked.args[0] not in _KNOWN:
        return None
    components = asked.args[0]
    vcpu.complete(_fillings()[sorted(_KNOWN).index(components)][0])
    if not isinstance(vcpu.run(_SLICE_NS), SystemCall):
        return None
    (filled,) = struct.unpack_from("<Q", memory.block, _XSTATE_BV)
    if filled != components:
        return None
    memory.window[2 * PAGE :] = bytes(PAGE)
    vcpu.load(state)
    vcpu.complete(_ALL)
    stop = vcpu.run(_SLICE_NS)
    return _Seen(stop, vcpu.save(), bytes(memory.window[2 * PAGE :])) if isinstance(stop, SystemCall) else None


def _fillings() -> list[tuple[int, bytes]]:
    """Address and code, for each of _KNOWN in ascending order: what fills its registers."""
    data, code, at = struct.pack("<I", _DATA), [], _FILL
    x87 = 8 * (b"\xd9\x04\x25" + data) + b"\xd9\x2c\x25" + struct.pack("<I", _DATA + 4)  # fld; fldcw
    mxcsr = b"\x0f\xae\x14\x25" + struct.pack("<I", _DATA + 8)  # ldmxcsr
    for vectors in (_sse(), _avx(), _avx512()):
        code.append((at, x87 + mxcsr + vectors + b"\x83\xc8\xff\x83\xca\xff" + _SAVE))  # or eax, -1; or edx, -1
        at += 0x200
    return code


def _sse() -> bytes:
    """pcmpeqd xmm, xmm: all ones."""
    return b"".join(b"\x66" + (b"\x45" if n > 7 else b"") + bytes((0x0F, 0x76, 0xC0 | (n & 7) * 9)) for n in range(16))


def _avx() -> bytes:
    """vpcmpeqd ymm, ymm, ymm."""
    return b"".join(bytes((0xC4, 0x41 if n > 7 else 0xE1, (~n & 15) << 3 | 5, 0x76, 0xC0 | (n & 7) * 9)) for n in range(16))


def _avx512() -> bytes:
    """vpternlogd zmm, zmm, zmm, 255 for all 32; kxnorw k, k, k for all 8."""
    code = b""
    for n in range(32):
        low, high = not n & 8, not n & 16
        first = low << 7 | high << 6 | low << 5 | high << 4 | 3
        code += bytes((0x62, first, (~n & 15) << 3 | 5, 0x40 | high << 3, 0x25, 0xC0 | (n & 7) * 9, 0xFF))
    return code + b"".join(bytes((0xC5, (~k & 15) << 3 | 0x84, 0x46, 0xC0 | k * 9)) for k in range(8))
