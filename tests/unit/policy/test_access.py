"""Who is let in, and the token bucket's promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.access import OPEN, AccessRule, Bucket, client_of, may_purge, network, permits, retry_after, take

_V6 = "2001:db8:1:2:3:4:5:6"


@pytest.mark.parametrize(
    ("rule", "client", "permitted"),
    [
        (OPEN, "192.0.2.1", True),
        (AccessRule(deny=("192.0.2.0/24",)), "192.0.2.1", False),
        (AccessRule(deny=("192.0.2.0/24",)), "198.51.100.1", True),
        (AccessRule(deny=("192.0.2.1",)), "192.0.2.1", False),
        (AccessRule(allow=("192.0.2.0/24",)), "192.0.2.1", True),
        (AccessRule(allow=("192.0.2.0/24",)), "198.51.100.1", False),
        (AccessRule(allow=("192.0.2.0/24",), deny=("192.0.2.7",)), "192.0.2.7", False),
        (AccessRule(deny=("192.0.2.0/24",)), "::ffff:192.0.2.1", False),
        (AccessRule(deny=("2001:db8::/32",)), _V6, False),
        (AccessRule(deny=("2001:db8::/32",)), "192.0.2.1", True),
        (AccessRule(allow=("0.0.0.0/0", "::/0")), "unix", False),
        (AccessRule(deny=("0.0.0.0/0", "::/0")), "unix", True),
    ],
)
def test_who_may_ask(rule: AccessRule, client: str, permitted: bool) -> None:
    assert permits(rule, client) is permitted


def test_one_client_is_an_address_or_a_prefix_of_64_bits() -> None:
    assert client_of("192.0.2.1") != client_of("192.0.2.2")
    assert client_of(_V6) == client_of("2001:db8:1:2::1") != client_of("2001:db8:1:3::1")
    assert client_of("unix") == "unix"
    assert client_of("::ffff:192.0.2.1") == client_of("192.0.2.1")


@pytest.mark.parametrize("text", ["", "a", "1.2.3", "1.2.3.4/33", "::/129"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        network(text)


@given(
    st.integers(1, 50),
    st.integers(0, 100),
    st.lists(st.floats(-1, 5, allow_nan=False), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate(rate: int, burst: int, pauses: list[float]) -> None:
    rule = AccessRule(client_rate=rate, client_burst=burst)
    bucket: Bucket | None = None
    now = started = latest = 1000.0
    served = 0
    for pause in pauses:
        now += pause
        latest = max(latest, now)
        bucket, wait = take(bucket, rule, now)
        served += wait == 0
        assert 0 <= bucket.level <= (burst or rate)
        if wait:
            assert take(bucket, rule, now + wait + 1e-6)[1] == 0, "whoever waits as told is served"
    moved_on = sum(pause for pause in pauses if pause > 0)
    assert served <= (burst or rate) + moved_on * rate + 1e-6
    assert latest - started <= moved_on + 1e-6


@pytest.mark.parametrize(("seconds", "value"), [(0.001, "1"), (1.0, "1"), (1.2, "2")])
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, value: str) -> None:
    assert retry_after(seconds) == value


@pytest.mark.parametrize(
    ("purge", "client", "may"),
    [
        ((), "192.0.2.1", False),
        (("192.0.2.0/24",), "192.0.2.1", True),
        (("192.0.2.0/24",), "::ffff:192.0.2.1", True),
        (("192.0.2.0/24",), "198.51.100.1", False),
        (("0.0.0.0/0", "::/0"), "unix", False),
        (("0.0.0.0/0", "::/0"), "", False),
    ],
)
def test_only_addresses_that_are_named_may_purge(purge: tuple[str, ...], client: str, may: bool) -> None:
    assert may_purge(AccessRule(purge=purge), client) is may
