from __future__ import annotations

import enum
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import yamlform
from edgecache.yamlform import FormError, Node, load, load_file


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


def value(text: str) -> Node:
    return load(f"key: {text}\n", "a.yaml").mapping(["key"])["key"]


def problem(text: str) -> str:
    with pytest.raises(FormError) as caught:
        load(text, "a.yaml")
    return str(caught.value)


def test_every_node_knows_its_place_and_path() -> None:
    root = load("sites:\n  - name: shop\n    hosts: [a.test, b.test]\n", "a.yaml")
    site = root.entries()["sites"].sequence()[0]
    host = site.entries()["hosts"].sequence()[1]
    assert (host.line, host.column, host.key) == (3, 21, "sites[0].hosts[1]")
    assert (site.line, site.column) == (2, 5)


def test_an_unknown_key_names_place_path_and_the_nearest_known_key() -> None:
    root = load("cache:\n  memmory: 1GiB\n", "a.yaml")
    with pytest.raises(FormError) as caught:
        root.entries()["cache"].mapping(["memory", "max_variants"])
    assert str(caught.value) == "a.yaml:2:3: cache.memmory: unknown key; did you mean memory?"


def test_an_unknown_key_with_no_near_one_lists_the_known_keys() -> None:
    with pytest.raises(FormError, match=r"a\.yaml:1:1: zzz: unknown key; known here: listen, sites"):
        load("zzz: 1", "a.yaml").mapping(["listen", "sites"])


def test_unknown_and_missing_keys_are_named_together() -> None:
    with pytest.raises(FormError) as caught:
        load("one: 1\nlistne: 2\n", "a.yaml").mapping(["listen", "site"], required=["site"])
    assert [p.key for p in caught.value.problems] == ["one", "listne", ""]
    assert "needs the key site" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1\nb: *x\n", "a.yaml:1:4: a: anchors"),
        ("a: *x\n", "a.yaml:1:4: a: anchors"),
        ("a: !!python/object:os.system 1\n", "a.yaml:1:4: a: tags"),
        ("a: !!str 1\n", "a.yaml:1:4: a: tags"),
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3:1: a: the key is given twice, first in line 1"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2:1: must be one document"),
        ("[1]: 2\n", "a.yaml:1:1: a key must be text"),
        ("a:\n  b: [1\n", "a.yaml:3:1: is not YAML: while parsing a flow sequence that begins in line 2, did not find"),
        ("a: b: c\n", "a.yaml:1:5: is not YAML"),
        ("a: \x01\n", "a.yaml: is not YAML"),
        ("\t- a", "a.yaml:1:1: is not YAML: the line is indented with a tab; indent with spaces"),
        ("a:\n\tb: 1\n", "a.yaml:2:1: is not YAML: the line is indented with a tab; indent with spaces"),
        ("a:\n  - b\n \t - c\n", "a.yaml:3:2: is not YAML: the line is indented with a tab; indent with spaces"),
        ("{}: 1\n", "a.yaml:1:1: a key must be text"),
    ],
)
def test_what_is_refused(text: str, expected: str) -> None:
    assert problem(text).startswith(expected)


def test_depth_count_and_length_are_bounded() -> None:
    assert "nested more than" in problem("[" * 5000)
    assert "more than 50000 values" in problem("[" + "1," * 60_000 + "]")
    assert "characters long" in problem("#" * (yamlform.MAX_TEXT + 1))


def test_an_empty_file_is_an_empty_value() -> None:
    assert load("", "a.yaml").null
    assert load("# nothing\n", "a.yaml").null
    with pytest.raises(FormError, match=r"a\.yaml:1:1: must be a mapping \(key: value\), not empty"):
        load("", "a.yaml").mapping(["listen"])


def test_words_stay_text_whatever_yaml_1_1_thinks_of_them() -> None:
    assert [value(word).text() for word in ("no", "1:30", "0x10", "1e3", "2026-01-01", "8080")] == [
        "no",
        "1:30",
        "0x10",
        "1e3",
        "2026-01-01",
        "8080",
    ]


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "True", "1", '"true"', "~", "[]"])
def test_only_true_and_false_are_boolean(word: str) -> None:
    with pytest.raises(FormError, match=r"a.yaml:1:6: key: must be true or false"):
        value(word).boolean()
    assert value("true").boolean() is True
    assert value("false").boolean() is False


@pytest.mark.parametrize("word", ["010", "1_000", "0x10", "1.0", '"1"', "", "{}", "9" * 400])
def test_integers_are_decimal_and_plain(word: str) -> None:
    with pytest.raises(FormError, match="must be a whole number from 0 to"):
        value(word).integer()


def test_ranges_are_held() -> None:
    assert value("5").integer(1, 5) == 5
    assert value("0.25").number(0, 1) == 0.25
    with pytest.raises(FormError, match="must be a whole number from 1 to 5, not 6"):
        value("6").integer(1, 5)
    with pytest.raises(FormError, match=r"must be a number from 0 to 1, not 1.5"):
        value("1.5").number(0, 1)
    with pytest.raises(FormError, match="must hold at least 1 values, not 0"):
        value("[]").sequence(1)
    with pytest.raises(FormError, match="must be at most 3 characters"):
        value("abcd").text(limit=3)


def test_durations_and_sizes_carry_units() -> None:
    assert value("250ms").duration() == 250_000_000
    assert value("1.5s").seconds() == 1.5
    assert value("64KiB").size() == 65536
    with pytest.raises(FormError, match=r"a.yaml:1:6: key: '5' has no unit; write 50ms"):
        value("5").duration()
    with pytest.raises(FormError, match="'lots' is not a size; write a number and a unit"):
        value("lots").size()
    with pytest.raises(FormError, match=r"must be from 1s to 1m, not '2h'"):
        value("2h").duration(10**9, 60 * 10**9)
    with pytest.raises(FormError, match=r"must be from 1KiB to 1MiB, not '2MiB'"):
        value("2MiB").size(1 << 10, 1 << 20)


def test_enumerations_suggest_the_nearest_word() -> None:
    assert value("red").enum(Colour) is Colour.RED
    with pytest.raises(FormError, match=r"must be one of red, green, not 'gren'; did you mean green\?"):
        value("gren").enum(Colour)


def test_text_refuses_what_is_no_text() -> None:
    for word in ("", "~", "[]", "{}", r'"a\nb"', r'"a\0b"'):
        with pytest.raises(FormError, match="key: must"):
            value(word).text()
    assert value('""').text() == ""
    with pytest.raises(FormError, match="must be a name, not 'A B'"):
        value("A B").text(pattern="[a-z]+", allowed="a name")


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(FormError, match=r"absent.yaml: cannot be read: No such file"):
        load_file(tmp_path / "absent.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(FormError, match=r"bad\.yaml:2:4: is not UTF-8 text"):
        load_file(bad)
    bad.write_bytes(b"a: 1\n")
    assert load_file(bad).entries()["a"].integer() == 1


def test_problems_are_reported_together_and_in_order() -> None:
    nodes = load("a: x\nb: y\nc: 3\n", "a.yaml").entries()
    problems = yamlform.Problems()
    assert problems.attempt(nodes["b"].integer, 7) == 7
    assert problems.attempt(nodes["a"].integer, 8) == 8
    assert problems.attempt(nodes["c"].integer, 9) == 3
    with pytest.raises(FormError) as caught:
        problems.raise_any()
    assert [p.line for p in caught.value.problems] == [1, 2]


@given(st.text(alphabet=string.printable + "é\0\ufeff", max_size=200))
def test_any_text_is_a_node_or_a_form_error(text: str) -> None:
    try:
        root = load(text, "a.yaml")
    except FormError as error:
        assert all(p.line >= 0 and p.message for p in error.problems)
    else:
        assert root.line >= 1
