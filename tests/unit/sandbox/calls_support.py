"""A process without a vCPU, whose system calls are made directly. Imported by the tests of the calls."""

from __future__ import annotations

from sandbox.guest.calls import CALLS, dispatch
from sandbox.guest.exchange import Exchange
from sandbox.guest.process import Process
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.vm import Template, load
from tests.unit.sandbox.machine_code import DATA, LIMITS, image

NUMBERS = {call.name: number for number, call in CALLS.items()}
FILES = (("index.html", b"<h1>0123456789</h1>"), ("sub/a.txt", b"a" * 5000), ("sub/deep/b", b""))
MINUS_ONE = (1 << 64) - 1
AT_FDCWD = (1 << 64) - 100
ANONYMOUS = 0x22


class Bases:
    """The two registers that calls may set."""

    def __init__(self) -> None:
        self.bases = (0, 0)

    def read_bases(self) -> tuple[int, int]:
        return self.bases

    def write_bases(self, fs_base: int, gs_base: int) -> None:
        self.bases = (fs_base, gs_base)


class Guest:
    """A process without a vCPU: calls are made directly."""

    def __init__(self, template: Template, request: GuestRequest | None = None, limits: object = LIMITS) -> None:
        self.template = template
        self.memory = template.memory.fork()
        loaded = template.loaded
        self.registers = Bases()
        self.process = Process(
            memory=self.memory,
            registers=self.registers,
            space=loaded.space,
            files=loaded.files,
            convention=loaded.convention,
            name="program",
            state=template.state(),
            exchange=Exchange(request, limits),  # type: ignore[arg-type]
        )

    def __call__(self, name: str, *args: int) -> object:
        return dispatch(self.process, NUMBERS[name], (*args, *[0] * (6 - len(args))))

    def put(self, data: bytes, at: int = DATA) -> int:
        self.process.access.write(at, data)
        return at

    def get(self, length: int, at: int = DATA) -> bytes:
        return self.process.access.read(at, length)

    def close(self) -> None:
        self.memory.close()


def make(convention: Convention) -> Template:
    return load(Program(image(b"\xf4", b"data"), convention, files=FILES), LIMITS)
