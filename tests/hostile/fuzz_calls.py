"""Fuzzes the table of system calls with atheris: coverage of the handlers chooses the calls.

`python -m tests.hostile.fuzz_calls [-max_total_time=SECONDS] [FOLDER] [CRASH-FILE]`, with libFuzzer's options: FOLDER keeps the
inputs that reached something new, a crash file is played once. `test_fuzz_calls.py` runs it for seconds.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import atheris

with atheris.instrument_imports(include=["sandbox.guest", "sandbox.memory", "sandbox.pages.paging", "sandbox.pages.pagemap"]):
    from sandbox.guest.calls import CALLS
    from sandbox.pages.paging import PAGE
    from tests.hostile.call_guest import DATA, ODD_ADDRESSES, ODD_LENGTHS, ODD_NUMBERS, PATHS, CallGuest
    from tests.unit.sandbox.machine_code import TEXT

NUMBERS = tuple(sorted(CALLS))
MOST_CALLS = 64
ALL = (1 << 64) - 1
_WORDS = (*ODD_ADDRESSES, *ODD_LENGTHS, *ODD_NUMBERS)
_WORD, _SMALL, _PAGES, _PLACE, _ANYTHING = range(5)
"""How an argument is written: one of _WORDS, a number below 256, that many pages, a page of the window, or 64 bits."""
Call = tuple[int, tuple[int, ...]]


def calls(data: bytes) -> Iterator[Call]:
    """What some bytes mean: for each call a byte for its number, then for each argument a byte for its kind, and its value."""
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int.from_bytes(data[at - count : at], "little")

    for _ in range(MOST_CALLS):
        if at >= len(data):
            return
        choice = take(1)
        number = NUMBERS[choice] if choice < len(NUMBERS) else take(8)
        arguments = []
        for _ in range(6):
            match take(1) % 5:
                case 0:
                    arguments.append(_WORDS[take(1) % len(_WORDS)])
                case 1:
                    arguments.append(take(1))
                case 2:
                    arguments.append(take(1) * PAGE)
                case 3:
                    arguments.append(TEXT + take(1) * PAGE)
                case _:
                    arguments.append(take(8))
        yield number, tuple(arguments)


def encoded(wanted: list[Call]) -> bytes:
    """Bytes that mean these calls."""
    data = b""
    for number, arguments in wanted:
        data += bytes((NUMBERS.index(number),))
        for argument in (*arguments, *(0,) * (6 - len(arguments))):
            if argument in _WORDS:
                data += bytes((_WORD, _WORDS.index(argument)))
            elif argument < 256:
                data += bytes((_SMALL, argument))
            else:
                data += struct.pack("<BQ", _ANYTHING, argument)
    return data


def _path(name: bytes) -> int:
    return DATA + PATHS.index(name + b"\0")


def seeds() -> list[bytes]:
    """Each call by itself, and a few lives that reach far."""
    place, anonymous = TEXT + 64 * PAGE, 0x22
    lives: list[list[Call]] = [[(number, (3, DATA, 16, 3, anonymous, 0))] for number in NUMBERS]
    lives += [
        [(9, (0, 4 * PAGE, 3, anonymous, ALL, 0)), (10, (place, PAGE, 1)), (25, (place, PAGE, 8 * PAGE, 1)), (11, (place, PAGE))],
        [(9, (place, 8 * PAGE, 3, 0x32, ALL, 0)), (28, (place, PAGE, 4)), (11, (place + PAGE, 2 * PAGE)), (12, (place,))],
        [(2, (_path(b"/a"), 0)), (0, (3, DATA, 100)), (8, (3, 5, 0)), (9, (0, PAGE, 1, 2, 3, 0)), (5, (3, DATA)), (3, (3,))],
        [(2, (_path(b"/"), 0o200000)), (217, (3, DATA, 1000)), (32, (3,)), (33, (3, 9)), (72, (3, 1, 0)), (3, (9,))],
        [(1, (1, DATA, 100)), (20, (1, DATA, 2)), (0x45440002, (DATA, 10)), (0x45440003, (DATA, 10)), (0x45440001, (DATA, PAGE))],
        [(0x45440002, (DATA, 10)), (0x45440007, (DATA, 1 << 62, DATA, 10)), (0x45440007, (DATA, 10, DATA, PAGE))],
        [(0x45440004, (DATA, 10, DATA, 100)), (0x45440005, (DATA, 5, DATA, 9)), (0x45440006, (DATA, 5, DATA, 9))],
    ]
    return [encoded(life) for life in lives]


def main(arguments: list[str]) -> None:
    """Ends the process, with status 0 when nothing was found."""
    with tempfile.TemporaryDirectory(prefix="fuzz-calls-") as name:
        for number, seed in enumerate(seeds()):
            (Path(name) / f"{number}").write_bytes(seed)
        child = os.fork()  # libFuzzer ends its process without a word to Python: somebody has to clear up
        if child == 0:
            _fuzz(arguments, name)
        status = None
        while status is None:
            with suppress(KeyboardInterrupt):  # libFuzzer gets it, too
                _, status = os.waitpid(child, 0)
    sys.exit(0 if status == 0 else 1)


def _fuzz(arguments: list[str], seeded: str) -> NoReturn:
    guest = CallGuest()

    def one(data: bytes) -> None:
        for number, args in calls(data):
            guest.make(number, args)
        guest.check()
        guest.reset()

    files = [word for word in arguments[1:] if not word.startswith("-")]
    plays = bool(files) and Path(files[0]).is_file()
    atheris.Setup([*arguments, *([] if plays else [seeded])], one)
    atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv)
