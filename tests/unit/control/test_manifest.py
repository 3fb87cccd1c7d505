"""generator.yaml: what is left out is filled in; what is wrong is named with its line and column, all of it at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgecache.control import words
from edgecache.control.bundle.bundles import Bundle, make_bundle
from edgecache.control.bundle.manifest import Manifest, matches, read_manifest
from edgecache.sites import OnError
from edgecache.yamlform import FormError
from sandbox.limits import DEFAULT_LIMITS, MIB, MILLISECOND_NS
from sandbox.program import Convention

LEAST = "name: hello\nprogram: bin/hello\nconvention: cgi\nroutes: ['/hello/*']\n"
FULL = """
name: hello
program: bin/hello
args: [--fast, "2"]
convention: resident
routes: ["/hello/*", "/"]
files: ["templates/**", "bin/*"]
env: {GREETING: hello}
limits: {cpu: 20ms, wall: 1s, memory: 8MiB, output: 1MiB, vms: 2}
cache: {default_ttl: 60s, vary: [Accept-Language], tags: [shop], stale_if_error: 1h, max_object: 1MiB, heuristic: false}
on_error: [origin]
sample: {path: "/hello/world?x=1", headers: {Accept: text/html}}
"""


def made(text: str) -> Bundle:
    files = {"bin/hello": b"\x7fELF", "templates/a/b.html": b"b", "README": b"r", "generator.yaml": text.encode()}
    return make_bundle(files)


def read(text: str) -> Manifest:
    return read_manifest(made(text), DEFAULT_LIMITS)


def mistakes(text: str) -> list[str]:
    with pytest.raises(FormError) as error:
        read(text)
    return [str(problem) for problem in error.value.problems]


def test_what_is_left_out_is_filled_in() -> None:
    found = read(LEAST)
    assert found == Manifest(
        name="hello",
        program="bin/hello",
        convention=Convention.CGI,
        routes=("/hello/*",),
        limits=DEFAULT_LIMITS,
        sample=found.sample,
    )
    assert found.sample.path == "/hello/"
    assert found.files == ("**",)


def test_everything_is_read() -> None:
    found = read(FULL)
    assert found.args == ("--fast", "2")
    assert found.env == (("GREETING", "hello"),)
    assert found.limits == replace(
        DEFAULT_LIMITS, cpu_ns=20 * MILLISECOND_NS, wall_ns=1000 * MILLISECOND_NS, memory_bytes=8 * MIB, output_bytes=MIB, vms=2
    )
    assert (found.rule.default_ttl, found.rule.vary, found.rule.tags) == (60.0, ("Accept-Language",), ("shop",))
    assert found.on_error == (OnError.ORIGIN,)
    assert (found.sample.path, found.sample.headers) == ("/hello/world?x=1", (("Accept", "text/html"),))
    program = found.program_of(made(FULL))
    assert program.image == b"\x7fELF"
    assert [path for path, _ in program.files] == ["bin/hello", "templates/a/b.html"]


def test_what_is_shown_reads_as_the_same_manifest() -> None:
    found = read(FULL)
    shown = found.shown()
    cache = shown["cache"]
    assert isinstance(cache, dict)
    for operators in ("store_set_cookie", "honour_client_reload", "forward_ranges", "esi", "esi_undeclared", "compress"):
        del cache[operators]
    del cache["prefetch"]
    assert read(yaml.safe_dump(shown)) == found
    assert shown["limits"] == words.show_limits(found.limits)


def test_all_mistakes_are_told_with_their_places() -> None:
    found = mistakes("name: Hello\nprogram: bin/none\nconvention: fastcgi\nroutes: [hello]\nlimits: {cpu: 50, memry: 1MiB}\n")
    assert [line.partition(": ")[0] for line in found] == [
        "generator.yaml:1:7",
        "generator.yaml:2:10",
        "generator.yaml:3:13",
        "generator.yaml:4:10",
        "generator.yaml:5:15",
        "generator.yaml:5:19",
    ]
    assert "did you mean memory?" in found[-1]


CASES = {
    "unknown key": ("routs: ['/']\n", "did you mean routes"),
    "unknown cache key": ("cache: {ttl: 60s}\n", "cache.ttl: unknown key"),
    "unitless": ("limits: {cpu: 50}\n", "has no unit"),
    "memory of odd size": ("limits: {memory: 1500KB}\n", "multiple of 4KiB"),
    "no cpu": ("limits: {cpu: 0}\n", "must be from 1ms"),
    "environment name": ("env: {1X: y}\n", "not a variable's name"),
    "environment of the request": ("env: {HTTP_PROXY: y}\n", "set from each request"),
    "environment of CGI": ("env: {PATH_INFO: y}\n", "set from each request"),
    "glob without files": ("files: [nothing/*]\n", "matches no file"),
    "error policy twice": ("on_error: [stale, stale]\n", "twice"),
    "error policy": ("on_error: [retry]\n", "must be one of"),
    "sample path": ("sample: {path: hello}\n", "begins with /"),
    "sample header": ("sample: {path: /, headers: {'a b': c}}\n", "not a header field's name"),
    "vary": ("cache: {vary: ['a b']}\n", "header field's name"),
    "tag": ("cache: {tags: ['a,b']}\n", "without a comma"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_says_what_would_be_right(case: str) -> None:
    text, said = CASES[case]
    assert any(said in line for line in mistakes(LEAST + text)), mistakes(LEAST + text)


@pytest.mark.parametrize("route", ["'hello'", "'/a?b'", "'/[a]'", "'/a b'", "'/ä'", "'" + "/*" * 9 + "'", "'/" + "a" * 300 + "'"])
def test_a_bad_route_is_refused(route: str) -> None:
    assert mistakes(LEAST.replace("'/hello/*'", route))


def test_a_route_given_twice_is_refused() -> None:
    assert "twice" in mistakes(LEAST.replace("'/hello/*'", "/a, /a"))[0]


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a" * 64, "a/b", "ä"])
def test_a_bad_name_is_refused(name: str) -> None:
    assert mistakes(LEAST.replace("name: hello", f"name: '{name}'"))


def test_a_missing_manifest_says_what_was_packed() -> None:
    with pytest.raises(FormError, match=r"not at the root of the bundle, which holds hello/generator\.yaml"):
        read_manifest(make_bundle({"hello/generator.yaml": b""}), DEFAULT_LIMITS)


def test_a_manifest_that_is_not_text_is_refused() -> None:
    with pytest.raises(FormError, match="UTF-8"):
        read_manifest(make_bundle({"generator.yaml": b"\xff"}), DEFAULT_LIMITS)
    with pytest.raises(FormError, match="at most"):
        read_manifest(make_bundle({"generator.yaml": b"#" * 70_000}), DEFAULT_LIMITS)


def test_defaults_are_lowered_to_the_ceiling_and_named_limits_are_not() -> None:
    ceiling = replace(DEFAULT_LIMITS, memory_bytes=8 * MIB, cpu_ns=MILLISECOND_NS)
    found = read_manifest(made(LEAST + "limits: {cpu: 2ms}\n"), ceiling)
    assert found.limits.memory_bytes == 8 * MIB
    assert words.exceeding(found.limits, ceiling) == (("cpu", "2ms", "1ms"),)


@pytest.mark.parametrize(
    ("path", "glob", "expected"),
    [
        ("a", "a", True),
        ("a/b", "*", False),
        ("a/b", "**", True),
        ("a/b/c", "a/**", True),
        ("a", "a/**", True),
        ("a/b/c", "**/c", True),
        ("c", "**/c", True),
        ("a/x/b/y/c", "a/**/b/**/c", True),
        ("a/b", "a/?", True),
        ("ab", "a", False),
        ("a/b", "a/*.html", False),
    ],
)
def test_globs(path: str, glob: str, expected: bool) -> None:
    assert matches(path, glob) is expected


def test_a_hostile_glob_costs_no_more_than_its_length() -> None:
    assert not matches("/".join("a" * 60), "/".join(["**", "a"] * 60 + ["b"]))


@given(st.text(max_size=300))
def test_any_text_is_a_manifest_or_a_form_error(text: str) -> None:
    try:
        read_manifest(make_bundle({"generator.yaml": text.encode("utf-8", "replace")}), DEFAULT_LIMITS)
    except FormError as error:
        assert error.problems
