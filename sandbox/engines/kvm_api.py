"""The kernel's KVM interface, as far as one guest of one vCPU needs it: structures, numbers, and the calls.

Linux's Documentation/virt/kvm/api.rst and <linux/kvm.h>, x86-64. Knows no guest: `kvm.py` decides what to run.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
from typing import Final

from sandbox.errors import EngineUnavailable

DEVICE: Final = "/dev/kvm"
API_VERSION: Final = 12

GET_API_VERSION: Final = 0xAE00
CREATE_VM: Final = 0xAE01
CHECK_EXTENSION: Final = 0xAE03
GET_VCPU_MMAP_SIZE: Final = 0xAE04
CREATE_VCPU: Final = 0xAE41
RUN: Final = 0xAE80
SET_USER_MEMORY_REGION: Final = 0x4020AE46
GET_SREGS: Final = 0x8138AE83
SET_MSRS: Final = 0x4008AE89
GET_XSAVE: Final = 0x9000AEA4
SET_XSAVE: Final = 0x5000AEA5
SET_CPUID2: Final = 0x4008AE90
ENABLE_CAP: Final = 0x4068AEA3

KICK: Final = signal.SIGURG
"""Sent to the vCPU's thread to end KVM_RUN: a signal that means nothing to anybody else here, and is not queued."""

REQUESTS: Final = (
    CREATE_VM,
    CREATE_VCPU,
    RUN,
    SET_USER_MEMORY_REGION,
    GET_SREGS,
    SET_MSRS,
    GET_XSAVE,
    SET_XSAVE,
    SET_CPUID2,
    ENABLE_CAP,
)
"""All that a process asks after `Kvm` is open."""

_CAP_DISABLE_QUIRKS2: Final = 213
_SYNC: Final = 1 | 2
"""Registers and special registers travel in `struct kvm_run`."""
_NEEDED: Final = {"XSAVE": (55, 1), "SYNC_REGS": (74, _SYNC), "IMMEDIATE_EXIT": (136, 1)}
"""Capabilities: number, and what it must answer."""
_QUIRKS: Final = 1 << 5 | 1 << 6
"""KVM rewriting a foreign hypercall instruction in guest memory, and `mwait` where there is none."""

EXIT_IO: Final = 2
EXIT_INTR: Final = 10

_libc = ctypes.CDLL(None, use_errno=True)
_ioctl = _libc.ioctl
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Registers(ctypes.Structure):
    """struct kvm_regs; `gprs` in KVM's order: rax rbx rcx rdx rsi rdi rsp rbp r8 … r15."""

    _fields_ = (("gprs", ctypes.c_uint64 * 16), ("rip", ctypes.c_uint64), ("rflags", ctypes.c_uint64))


class Segment(ctypes.Structure):
    """struct kvm_segment."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("selector", ctypes.c_uint16),
        *((name, ctypes.c_uint8) for name in ("type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable", "padding")),
    )


class Table(ctypes.Structure):
    """struct kvm_dtable."""

    _fields_ = (("base", ctypes.c_uint64), ("limit", ctypes.c_uint16), ("padding", ctypes.c_uint16 * 3))


class SpecialRegisters(ctypes.Structure):
    """struct kvm_sregs."""

    _fields_ = (
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        *((name, Table) for name in ("gdt", "idt")),
        *((name, ctypes.c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", ctypes.c_uint64 * 4),
    )


class Run(ctypes.Structure):
    """The beginning of struct kvm_run, with the union as an I/O exit has it and the synchronised registers."""

    _fields_ = (
        ("request_interrupt_window", ctypes.c_uint8),
        ("immediate_exit", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 6),
        ("exit_reason", ctypes.c_uint32),
        ("ready", ctypes.c_uint8),
        ("if_flag", ctypes.c_uint8),
        ("flags", ctypes.c_uint16),
        ("cr8", ctypes.c_uint64),
        ("apic_base", ctypes.c_uint64),
        ("io_direction", ctypes.c_uint8),
        ("io_size", ctypes.c_uint8),
        ("io_port", ctypes.c_uint16),
        ("io_rest", ctypes.c_uint8 * 252),
        ("valid_regs", ctypes.c_uint64),
        ("dirty_regs", ctypes.c_uint64),
        ("regs", Registers),
        ("sregs", SpecialRegisters),
    )


REGS: Final = 1
SREGS: Final = 2
"""Bits of `dirty_regs`."""
XSAVE_BYTES: Final = 4096
"""struct kvm_xsave: an FXSAVE area, the header of XSAVE, and what is beyond SSE."""
SREGS_BYTES: Final = ctypes.sizeof(SpecialRegisters)
REGS_OFFSET: Final = Run.regs.offset
SREGS_OFFSET: Final = Run.sregs.offset
IMMEDIATE_OFFSET: Final = Run.immediate_exit.offset
DIRTY_OFFSET: Final = Run.dirty_regs.offset
EXIT_OFFSET: Final = Run.exit_reason.offset
EXIT: Final = struct.Struct(f"<I{Run.io_port.offset - EXIT_OFFSET - 4}xH{REGS_OFFSET - Run.io_port.offset - 2}x18Q")
"""What an exit has to say, from EXIT_OFFSET: its reason, the port where it is EXIT_IO, and struct kvm_regs."""


def ioctl(fd: int, request: int, argument: int | None = None) -> int:
    """Raises OSError with the call's number."""
    result = int(_ioctl(fd, request, argument))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"KVM ioctl {request:#x}: {os.strerror(code)}")
    return result


def _map(fd: int, length: int) -> int:
    address = _mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of a vCPU: {os.strerror(code)}")
    return int(address)


def enter(vcpu: int) -> int:
    """KVM_RUN: 0 at an exit that `run` tells, else the errno: EINTR after a signal or `immediate_exit`."""
    try:
        fcntl.ioctl(vcpu, RUN)  # a third of the cost of a call through ctypes
    except OSError as error:
        return error.errno or errno.EIO
    return 0


class Kvm:
    """The open device. Inherited over fork: what is made from it belongs to the process that made it."""

    def __init__(self) -> None:
        """Raises EngineUnavailable: no device, no right to it, or a KVM without what this engine needs."""
        try:
            self.fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise EngineUnavailable(f"the kvm engine cannot open {DEVICE}: {error.strerror}") from error
        try:
            self._require()
            self.quirks = max(ioctl(self.fd, CHECK_EXTENSION, _CAP_DISABLE_QUIRKS2), 0) & _QUIRKS
            self.run_bytes = ioctl(self.fd, GET_VCPU_MMAP_SIZE)
        except OSError as error:
            os.close(self.fd)
            raise EngineUnavailable(f"{DEVICE} does not answer: {error.strerror}") from error
        except EngineUnavailable:
            os.close(self.fd)
            raise

    def _require(self) -> None:
        version = ioctl(self.fd, GET_API_VERSION)
        if version != API_VERSION:
            raise EngineUnavailable(f"{DEVICE} speaks version {version} of its interface; the kvm engine needs {API_VERSION}")
        for name, (capability, needed) in _NEEDED.items():
            if ioctl(self.fd, CHECK_EXTENSION, capability) & needed != needed:
                raise EngineUnavailable(f"{DEVICE} lacks KVM_CAP_{name}, which the kvm engine needs")


class Machine:
    """One virtual machine: one memory slot at physical 0, one vCPU."""

    def __init__(self, kvm: Kvm, address: int, length: int) -> None:
        """`address` and `length` of the host's mapping. Raises OSError."""
        self._run_bytes = kvm.run_bytes
        self._slot = (address, length)
        self.fd, self.vcpu, self._address = ioctl(kvm.fd, CREATE_VM), -1, 0
        try:
            if kvm.quirks:
                self._pass(self.fd, ENABLE_CAP, struct.pack("<IIQ88x", _CAP_DISABLE_QUIRKS2, 0, kvm.quirks))
            self._set_slot(length)
            self.vcpu = ioctl(self.fd, CREATE_VCPU, 0)
            self._address = _map(self.vcpu, kvm.run_bytes)
            self.run = Run.from_address(self._address)
            self.run.valid_regs = _SYNC
            self.page = memoryview((ctypes.c_ubyte * ctypes.sizeof(Run)).from_address(self._address)).cast("B")
            """The bytes of `run`: what is copied or looked at many words at a time."""
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent. `run` must not be used any more."""
        if self._address:
            _munmap(self._address, self._run_bytes)
            self._address = 0
        for fd in (self.vcpu, self.fd):
            if fd >= 0:
                os.close(fd)
        self.vcpu = self.fd = -1

    def remap(self) -> None:
        """Forget every translation made from the guest's page tables, shadow page tables included."""
        self._set_slot(0)
        self._set_slot(self._slot[1])

    def set_cpuid(self, leaves: dict[int, tuple[int, int, int, int]]) -> None:
        entries = b"".join(struct.pack("<7I12x", leaf, 0, 0, *values) for leaf, values in leaves.items())
        self._pass(self.vcpu, SET_CPUID2, struct.pack("<II", len(leaves), 0) + entries)

    def set_msrs(self, values: dict[int, int]) -> None:
        """Raises OSError when one of them is refused."""
        entries = b"".join(struct.pack("<IIQ", number, 0, value) for number, value in values.items())
        if self._pass(self.vcpu, SET_MSRS, struct.pack("<II", len(values), 0) + entries) != len(values):
            raise OSError(errno.EINVAL, "KVM refuses a model-specific register")

    def special_registers(self) -> SpecialRegisters:
        sregs = SpecialRegisters()
        ioctl(self.vcpu, GET_SREGS, ctypes.addressof(sregs))
        return sregs

    def transfer(self, request: int, buffer: bytearray) -> None:
        """A call on the vCPU that reads or fills XSAVE_BYTES."""
        fcntl.ioctl(self.vcpu, request, buffer)

    def _set_slot(self, length: int) -> None:
        self._pass(self.fd, SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, length, self._slot[0]))

    def _pass(self, fd: int, request: int, data: bytes) -> int:
        buffer = ctypes.create_string_buffer(data, len(data))
        return ioctl(fd, request, ctypes.addressof(buffer))
