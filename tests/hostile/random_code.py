"""Runs COUNT programs of random instructions from SEED, each to its end: `python -m tests.hostile.random_code SEED COUNT`.

A process of its own, for some bytes may abort the engine.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from dataclasses import replace

from sandbox.limits import MIB, MILLISECOND_NS
from tests.unit.sandbox.machine_code import LIMITS, run

PREFIXES = (b"", b"\x0f", b"\x66", b"\xf3", b"\xf0", b"\x48", b"\x0f\x01", b"\xff", b"\x0f\xae", b"\xc5", b"\xd9")


def main(seed: int, count: int) -> None:
    chance = random.Random(seed)
    limits = replace(LIMITS, cpu_ns=20 * MILLISECOND_NS, memory_bytes=4 * MIB)
    ends: Counter[str] = Counter()
    for _ in range(count):
        words = (chance.choice(PREFIXES) + chance.randbytes(chance.randint(1, 5)) for _ in range(chance.randint(1, 12)))
        ends[run(b"".join(words), limits=limits).end] += 1
    print(json.dumps(ends))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
