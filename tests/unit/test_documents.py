"""What the documents name is there: links, anchors, files, tests, commands with their options, modules, targets of make."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from edgecache.cli import cli
from edgecache.processes.reload import FIXED

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sandbox/*.md")])
SOURCES = sorted([*DOCUMENTS, *ROOT.glob("configs/*.yaml")])
_FENCE = re.compile(r"```.*?```", re.DOTALL)
_OPTION = re.compile(r"--[a-z][a-z-]*")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.*)$", _FENCE.sub("", path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", path.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_tests_that_hold_a_promise_exist(path: Path) -> None:
    tests = "\n".join(file.read_text() + file.name for file in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_\w+?)(?:\.py)?`", path.read_text()):
        assert name in tests


def _commands(text: str) -> list[list[str]]:
    """The words of each call of `edgecache` in a document, without comments and what follows a pipe."""
    found = [line for fence in _FENCE.findall(text) for line in fence.splitlines()]
    found += re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    found += [line for line in text.splitlines() if re.match(r"(#|    ) *edgecache ", line)]
    calls = []
    for line in found:
        match = re.match(r"(?:[#$] *|    )?edgecache (.*)", line.strip())
        if match:
            words = shlex.split(re.split(r"\s#|\||&&|; ", match[1])[0].replace("'", '"') if match[1].count('"') != 1 else "")
            calls.append(words)
    return calls


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_commands_and_their_options_exist(path: Path) -> None:
    for words in _commands(path.read_text()):
        command: click.Command | None = cli
        known: set[str] = set()
        rest = words
        while isinstance(command, click.Group) and rest and re.fullmatch("[a-z]+", rest[0]):
            context = click.Context(command)
            assert rest[0] in command.list_commands(context), words
            command, rest = command.get_command(context, rest[0]), rest[1:]
        assert command is not None
        known = {option for param in command.params for option in param.opts} | {"--help", "--version"}
        for word in rest:
            if found := _OPTION.match(word):
                assert found[0] in known, (words, word)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_modules_and_targets_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for module in re.findall(r"python -m ([a-z_0-9]+(?:\.[a-z_0-9]+)*)", text):
        assert importlib.util.find_spec(module) is not None, module
    for target in re.findall(r"(?:`|^)make ([a-z]+)\b", text, flags=re.MULTILINE):
        assert target in targets, target


def test_each_dependency_has_its_line_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    text = (ROOT / "docs/dependencies.md").read_text()
    listed = re.findall(r"^\| (?:(?:sdk|load|bench|otel|dev) \| )?([a-z][\w-]+) \| [^|]+ \|$", text, flags=re.MULTILINE)
    assert sorted(set(listed) - {"package"}) == sorted({re.split(r"[^\w-]", each)[0] for each in wanted})
    assert len(listed) == len(set(listed))


def test_enough_was_found_to_believe_this() -> None:
    assert sum(len(_commands(path.read_text())) for path in SOURCES) > 40
    assert len(DOCUMENTS) > 12


def test_what_a_reload_leaves_as_it_was_is_told() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    told = re.search(r"What is made once at the start (.*?)An upgrade", text, flags=re.DOTALL)
    assert told is not None
    patterns = [name.replace("*", ".*") for name in re.findall(r"`([^`]+)`", told[1])]
    assert [key for key in FIXED if not any(re.fullmatch(pattern, key) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in FIXED)] == []
