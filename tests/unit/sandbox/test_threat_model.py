"""The threat model keeps its word: every test and every attempt that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import sandbox
from sandbox.confinement.seccomp import RULES, Verdict
from tests.unit.sandbox.jail_escape import ATTEMPTS

ROOT = Path(__file__).resolve().parents[3]
TEXT = (Path(sandbox.__file__).parent / "THREAT_MODEL.md").read_text()
ROWS = [line.split("|")[1:-1] for line in TEXT.splitlines() if re.match(r"\| \d", line)]


def test_threats_are_numbered_without_gaps() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, len(ROWS) + 1))


def test_every_threat_names_a_test_that_exists() -> None:
    files = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    code = "\n".join(files.values())
    for number, *_, tests in ROWS:
        names = [name for name in re.findall(r"\b(?:test_\w+|Test\w+)\b", tests) if name not in files]
        attempts = re.findall(r'"([^"]+)"', tests)
        assert names or attempts or re.search(r"test_\w+\.py", tests), number
        assert all(re.search(rf"(def|class) {name}\b", code) for name in names), (number, names)
        assert set(attempts) <= set(ATTEMPTS), number
        for named in re.findall(r"\btest_\w+\.py[\w:]*", tests):
            file, *inside = named.split("::")
            code_there = files.get(file.removesuffix(".py"), "")
            assert code_there and all(re.search(rf"(def|class) {name}\b", code_there) for name in inside), (number, named)


def test_the_number_of_system_calls_left_is_true() -> None:
    allowed = [rule for rule in RULES if rule.verdict is Verdict.ALLOW]
    checked = [rule for rule in allowed if rule.any_of]
    assert f"{len(allowed)} system calls that are left, {len(checked)} of them with checked arguments" in TEXT.replace(
        "\n  ", " "
    )
