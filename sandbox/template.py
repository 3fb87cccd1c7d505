"""A program loaded, or initialised, and frozen: what every request's VM is forked from.

Owns the memory's file; knows no engine and runs nothing. `load` makes the first template of a program, `vm.Vm.freeze` the second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from sandbox.engines.base import CpuState
from sandbox.errors import ImageError
from sandbox.guest.files import FileTree
from sandbox.guest.process import AddressSpace, GuestState
from sandbox.guest.stack import initial_stack
from sandbox.image import Image, parse
from sandbox.limits import KIB, MIB, Limits
from sandbox.memory import FrozenMemory
from sandbox.pages.paging import PAGE, USER_TOP, WRITABLE, Layout, page_flags
from sandbox.program import Convention, Program

STACK_SHARE: Final = 8
"""The stack is this part of the memory, within these bounds."""
LEAST_STACK: Final = 64 * KIB
MOST_STACK: Final = 8 * MIB
GUARD_BYTES: Final = 64 * KIB
EMPTY_FPU: Final = (b"\x7f\x03" + bytes(22) + b"\x80\x1f\0\0\xff\xff\0\0").ljust(512, b"\0")
"""FXSAVE area of a new process: FCW 037F, MXCSR 1F80."""


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """What a program's templates have in common: immutable, shared by all its VMs."""

    image: Image
    space: AddressSpace
    files: FileTree
    convention: Convention
    args: tuple[bytes, ...]
    environ: tuple[tuple[bytes, bytes], ...]
    limits: Limits
    """Those that hold for the boot."""


class Template:
    """One state of one program, ready to be forked."""

    def __init__(self, loaded: LoadedProgram, memory: FrozenMemory, cpu: CpuState, state: GuestState, *, booted: bool) -> None:
        self.loaded = loaded
        self.memory = memory
        self.cpu = cpu
        self.booted = booted
        """Whether the program stands at its first `next_request`, which `Vm.begin` answers."""
        self._state = state.shared()

    def state(self) -> GuestState:
        """A fork's own copy of the monitor's state."""
        return self._state.copy()

    @property
    def resident_bytes(self) -> int:
        """Host memory that the template takes, shared by all forks."""
        return self.memory.resident_bytes

    def close(self) -> None:
        """Existing forks stay good. Idempotent."""
        self.memory.close()


def load(program: Program, limits: Limits) -> Template:
    """Parse and lay out a program as it is before its first instruction. Raises ImageError."""
    image = parse(program.image, limits.memory_bytes)
    if limits.memory_bytes % PAGE or limits.memory_bytes <= 0:
        raise ImageError(f"a memory of {limits.memory_bytes} bytes is not made of whole {PAGE}-byte pages")
    if image.base + limits.memory_bytes > USER_TOP:
        raise ImageError(f"its base {image.base:#x} leaves no room for {limits.memory_bytes} bytes of memory")
    layout = Layout(image.base, limits.memory_bytes)
    space = _space(image, layout)
    loaded = LoadedProgram(
        image=image,
        space=space,
        files=FileTree(program.files),
        convention=program.convention,
        args=tuple(_encode(arg) for arg in (program.name, *program.args)),
        environ=tuple((_encode(name), _encode(value)) for name, value in program.env),
        limits=limits,
    )
    contents = [(segment.address - layout.base, segment.content) for segment in image.segments if segment.content]
    stack_pointer = space.stack_top
    if program.convention is Convention.RESIDENT:
        stack = initial_stack(image, space.stack_top, loaded.args, loaded.environ)
        if not fits(stack, space):
            raise ImageError("its arguments and environment do not fit its stack: shorten them or raise the memory limit")
        stack_pointer -= len(stack)
        contents.append((stack_pointer - layout.base, stack))
    stack_pages = (space.stack // PAGE, space.stack_top // PAGE, page_flags(read=True, write=True, execute=False))
    text = tuple((start - layout.base, end - layout.base) for start, end in image.text)
    return Template(
        loaded,
        FrozenMemory.build(layout, contents, dict(image.pages), text, runs=[stack_pages], alike=_alike(image, layout)),
        initial_cpu(image, stack_pointer),
        GuestState(brk=space.image_end),
        booted=False,
    )


def initial_cpu(image: Image, stack_pointer: int) -> CpuState:
    """Registers at a program's first instruction: all zero but these."""
    gprs = (0, 0, 0, 0, 0, 0, 0, stack_pointer, 0, 0, 0, 0, 0, 0, 0, 0)
    return CpuState(gprs=gprs, rip=image.entry, rflags=0x202, fs_base=0, gs_base=0, fpu=EMPTY_FPU)


def fits(stack: bytes, space: AddressSpace) -> bool:
    """Whether an initial stack leaves the program half of its stack."""
    return 2 * len(stack) <= space.stack_top - space.stack


def _encode(text: str) -> bytes:
    """A string for the initial stack, where NUL ends it."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ImageError(f"its argument or variable {text!r} is not text: {error.reason}") from error
    if b"\0" in encoded:
        raise ImageError(f"its argument or variable {text!r} holds a NUL character")
    return encoded


def _alike(image: Image, layout: Layout) -> tuple[int, int] | None:
    """Offsets of the longest run of pages that are the image's for ever: nobody may write to them."""
    start, end = max(_read_only(image), key=lambda run: run[1] - run[0], default=(0, 0))
    first = layout.base // PAGE
    return ((start - first) * PAGE, (end - first) * PAGE) if end else None


def _read_only(image: Image) -> Iterator[tuple[int, int]]:
    """Runs of virtual page numbers: first, end."""
    numbers = [page for page, flags in image.pages if not flags & WRITABLE]
    for _, run in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        pages = [page for _, page in run]
        yield pages[0], pages[-1] + 1


def _space(image: Image, layout: Layout) -> AddressSpace:
    stack_bytes = min(max(layout.window_bytes // STACK_SHARE & -PAGE, LEAST_STACK), MOST_STACK)
    stack = layout.end - stack_bytes
    guard = stack - GUARD_BYTES
    if image.end > guard:
        raise ImageError(
            f"its {image.end - image.base} bytes leave no room for a stack within {layout.window_bytes}: raise the memory limit"
        )
    return AddressSpace(image_end=image.end, stack_guard=guard, stack=stack, stack_top=layout.end)
