"""`upstream` and `origins` in YAML and JSON: what is read is what is shown, and what is wrong is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.control.upstreamwords import (
    SECTIONS,
    read_origin,
    read_upstream,
    show_origin,
    show_upstream,
    take_origin,
    take_upstream,
)
from edgecache.policy.upstream import (
    DEFAULT_UPSTREAM,
    Balance,
    BreakerRule,
    EjectionRule,
    HealthRule,
    HedgeRule,
    Origin,
    RetryOn,
    RetryRule,
    Timeouts,
    TlsRule,
    UpstreamRule,
)
from edgecache.yamlform import FormError, load

EVERYTHING = """
balance: weight
health: {path: "/ready?deep=1", host: ready.test, interval: 2s, timeout: 500ms, expect: 200-204, rise: 1, fall: 5}
ejection: {errors: 3, time: 30s, max_share: 0.25}
breaker: {max_connections: 64, max_pending: 0, max_failures: 10, pause: 1m}
retries: {attempts: 2, budget: 0.1, on: [reset, timeout], statuses: [502, 503]}
hedge: {after: 150ms}
timeouts: {connect: 1s, first_byte: 5s, between_bytes: 10s}
tls: {ca: ca.pem, server_name: origin.internal, certificate: /etc/edge.pem, key: edge.key}
"""
RULE = UpstreamRule(
    balance=Balance.WEIGHT,
    health=HealthRule(path="/ready?deep=1", host="ready.test", interval=2.0, timeout=0.5, expect=(200, 204), rise=1, fall=5),
    ejection=EjectionRule(errors=3, time=30.0, max_share=0.25),
    breaker=BreakerRule(max_connections=64, max_pending=0, max_failures=10, pause=60.0),
    retries=RetryRule(attempts=2, budget=0.1, on=(RetryOn.RESET, RetryOn.TIMEOUT), statuses=(502, 503)),
    hedge=HedgeRule(after=0.15),
    timeouts=Timeouts(connect=1.0, first_byte=5.0, between_bytes=10.0),
    tls=TlsRule(ca="/conf/ca.pem", server_name="origin.internal", certificate="/etc/edge.pem", key="/conf/edge.key"),
)

seconds = st.integers(1, 3600).map(float)
RULES = st.builds(
    UpstreamRule,
    balance=st.none() | st.sampled_from(Balance),
    health=st.none()
    | st.builds(
        HealthRule,
        path=st.sampled_from(["/", "/a?b"]),
        host=st.sampled_from(["", "a.test:80"]),
        interval=st.integers(600, 3600).map(float),
        timeout=st.integers(1, 600).map(float),
        expect=st.tuples(st.integers(100, 300), st.integers(301, 599)),
        rise=st.integers(1, 100),
        fall=st.integers(1, 100),
    ),
    ejection=st.none() | st.builds(EjectionRule, errors=st.integers(1, 1000), time=seconds, max_share=st.floats(0, 1)),
    breaker=st.builds(
        BreakerRule,
        max_connections=st.none() | st.integers(1, 100_000),
        max_pending=st.integers(0, 100_000),
        max_failures=st.none() | st.integers(1, 100_000),
        pause=seconds,
    ),
    retries=st.builds(
        RetryRule,
        attempts=st.integers(0, 10),
        budget=st.floats(0, 1),
        on=st.lists(st.sampled_from(RetryOn), unique=True).map(tuple),
        statuses=st.lists(st.integers(400, 599), unique=True, max_size=32).map(tuple),
    ),
    hedge=st.none() | st.builds(HedgeRule, after=st.integers(1, 600).map(float)),
    timeouts=st.builds(Timeouts, connect=st.none() | st.integers(1, 600).map(float), first_byte=st.none() | seconds),
    tls=st.builds(TlsRule, ca=st.sampled_from(["", "/ca.pem"]), server_name=st.sampled_from(["", "a.test"])),
)


def test_a_file_says_all_of_it_and_paths_start_at_its_directory() -> None:
    assert read_upstream(load(EVERYTHING, "f"), Path("/conf")) == RULE


def test_every_key_is_in_the_words() -> None:
    for name, section in SECTIONS.items():
        assert set(section.words) == set(section.rule.__dataclass_fields__), name


@settings(deadline=None)
@given(RULES)
def test_what_is_shown_is_taken_again_and_stored_again(rule: UpstreamRule) -> None:
    shown = json.loads(json.dumps(show_upstream(rule)))
    assert take_upstream(shown, DEFAULT_UPSTREAM, "$") == rule
    assert msgspec.json.decode(msgspec.json.encode(rule), type=UpstreamRule) == rule


def test_a_change_keeps_the_rest_and_null_sets_a_part_back() -> None:
    changed = take_upstream({"health": {"path": "/other"}, "hedge": None, "timeouts": None}, RULE, "$")
    assert changed.health is not None
    assert (changed.health.path, changed.health.fall) == ("/other", 5)
    assert (changed.hedge, changed.timeouts, changed.breaker) == (None, Timeouts(), RULE.breaker)


def test_a_part_without_words_is_on_with_its_defaults() -> None:
    assert read_upstream(load("ejection: {}\nhedge: {}", "f"), Path()).ejection == EjectionRule()
    assert take_upstream({"health": {}}, DEFAULT_UPSTREAM, "$").health == HealthRule()
    assert read_upstream(load("ejection:\nbreaker:", "f"), Path()) == DEFAULT_UPSTREAM


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("balanse: weight", "f:1:1: balanse: unknown key; did you mean balance?"),
        ("balance: random", "f:1:10: balance: must be one of order, weight, hash, not 'random'"),
        ("health: {path: ready}", "f:1:16: health.path: must be a path that begins with /, query included, not 'ready'"),
        ("health: {expect: 399-200}", "f:1:18: health.expect: must be a status or a range of them, such as 200-399"),
        ("health: {interval: 1s, timeout: 2s}", "f:1:9: health: timeout is above interval"),
        ("ejection: {errors: 0}", "f:1:20: ejection.errors: must be a whole number from 1 to 1000, not 0"),
        ("breaker: {max_failures: many}", "f:1:25: breaker.max_failures: must be a whole number"),
        ("retries: {on: [reset, reset]}", "f:1:15: retries.on: names a value twice"),
        ("retries: {statuses: [200]}", "f:1:22: retries.statuses[0]: must be a whole number from 400 to 599"),
        ("tls: {key: a.key}", "f:1:6: tls: key without certificate"),
        ("tls: {ca: a.pem, insecure_skip_verify: true}", "f:1:6: tls: ca and insecure_skip_verify"),
        ("tls: {insecure_skip_verify: yes}", "f:1:29: tls.insecure_skip_verify: must be true or false"),
        ("timeouts: 5s", "f:1:11: timeouts: must be a mapping"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(FormError) as found:
        read_upstream(load(text, "f"), Path())
    assert str(found.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": 1}, "$: unknown key 'x'"),
        ({"health": 1}, "$.health: must be an object or null"),
        ({"health": {"x": 1}}, "$.health: unknown key 'x'"),
        ({"health": {"interval": 5}}, "$.health.interval: must be text with a unit"),
        ({"health": {"interval": "5 parsecs"}}, "$.health.interval: '5 parsecs' has an unknown unit"),
        ({"health": {"interval": "1d"}}, "$.health.interval: must be from 100ms to 1h"),
        ({"health": {"path": "/a b"}}, "$.health.path: must be a path"),
        ({"health": {"path": "/\r\nX: y"}}, "$.health.path: must be a path"),
        ({"health": {"host": "a\r\nb"}}, "$.health.host: must be a host"),
        ({"breaker": {"max_connections": True}}, "$.breaker.max_connections: must be a whole number"),
        ({"retries": {"on": ["connect"]}}, "$.retries.on: must be one of reset, timeout"),
        ({"retries": {"budget": 2}}, "$.retries.budget: must be a number from 0 to 1"),
        ({"retries": {"budget": float("nan")}}, "$.retries.budget: must be a number from 0 to 1"),
        ({"tls": {"ca": "ca.pem"}}, "$.tls.ca: must be the absolute path of a file"),
        ({"tls": {"insecure_skip_verify": 1}}, "$.tls.insecure_skip_verify: must be true or false"),
        ({"tls": {"key": "/k"}}, "$.tls: key without certificate"),
        ({"balance": 3}, "$.balance: must be one of"),
    ],
)
def test_what_is_wrong_in_json_is_named_with_its_place(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"^\$") as found:
        take_upstream(given, DEFAULT_UPSTREAM, "$")
    assert str(found.value).startswith(said)


ORIGINS = [
    ("http://a.test", "http://a.test", Origin("http://a.test")),
    ("{url: 'http://a.test/', weight: 3}", {"url": "http://a.test", "weight": 3}, Origin("http://a.test", 3)),
    ("{url: 'http://a.test', backup: true}", {"url": "http://a.test", "backup": True}, Origin("http://a.test", backup=True)),
    (
        "{url: 'http://a.test', proxy_protocol: 2}",
        {"url": "http://a.test", "proxy_protocol": 2},
        Origin("http://a.test", proxy_protocol=2),
    ),
]


@pytest.mark.parametrize(("text", "shown", "origin"), ORIGINS)
def test_origins_in_both_forms(text: str, shown: object, origin: Origin) -> None:
    assert read_origin(load(text, "f")) == origin
    assert show_origin(origin) == shown
    assert take_origin(shown, "$") == origin


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"weight": 1}, "$: must be a URL"),
        (["http://u:secret@a"], "$: must be a URL"),
        ({"url": "ftp://a"}, "$.url: "),
        ({"url": "http://a", "weight": 0}, "$.weight: must be a whole number from 1 to 1000"),
        ({"url": "http://a", "proxy_protocol": 3}, "$.proxy_protocol: "),
        ({"url": "http://a", "wait": 1}, "$: unknown key 'wait'"),
        ("http://u:secret@a", "$: must hold no user name"),
    ],
)
def test_wrong_origins_are_named_and_no_password_is_shown(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=r"^\$") as found:
        take_origin(value, "$")
    assert str(found.value).startswith(said)
    assert "secret" not in str(found.value)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["balance", *SECTIONS, "path", "ca", "on", "url", "weight"]), inner)
        ),
    )
)
def test_any_json_is_taken_or_refused_by_place(value: object) -> None:
    for take in (
        lambda: take_upstream(value, DEFAULT_UPSTREAM, "$") if isinstance(value, dict) else None,
        lambda: take_origin(value, "$"),
    ):
        try:
            take()
        except ValueError as error:
            assert str(error).startswith("$")
