from __future__ import annotations

import pytest

from edgecache.policy.message import Timed
from edgecache.policy.rule import CacheRule
from edgecache.policy.storing import NoStore, NoStoreReason, Storable, admit, strip
from edgecache.policy.substitute import MOST_SECONDS, briefly
from tests.unit.policy.values import NOW, request, response


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"Cache_Control": "max-age=3600"}, "max-age=10"),
        ({"Cache_Control": "max-age=3600, must-revalidate"}, "max-age=10, must-revalidate"),
        ({"Cache_Control": "max-age=3600, proxy-revalidate"}, "max-age=10, proxy-revalidate"),
        ({"Cache_Control": "no-transform, public, s-maxage=99"}, "max-age=10, no-transform"),
        ({"Cache_Control": 'max-age=3600, no-cache="set-cookie"'}, 'max-age=10, no-cache="set-cookie"'),
        ({"Cache_Control": 'max-age=3600, private="x-b, x-a"'}, 'max-age=10, private="x-a, x-b"'),
        ({"Cache_Control": "no-store", "CDN_Cache_Control": "max-age=3600"}, "max-age=10"),
        ({"Cache_Control": "max-age=5"}, "max-age=5"),
        ({"Cache_Control": "max-age=3600", "Age": "3595"}, "max-age=3600"),
        ({"Cache_Control": "max-age=3600", "Age": "100"}, "max-age=110"),
        ({"Cache_Control": "private, max-age=3600"}, "private, max-age=3600"),
        ({"Cache_Control": "no-cache, max-age=3600"}, "no-cache, max-age=3600"),
    ],
)
def test_how_long_a_substitute_is_fresh(fields: dict[str, str], said: str) -> None:
    found = briefly(response(**fields), CacheRule(), NOW)
    assert found.headers.getall("Cache-Control") == [said]
    assert ("CDN-Cache-Control" in found.headers) is False


@pytest.mark.parametrize("rule", [CacheRule(default_ttl=60.0), CacheRule()])
def test_what_was_not_shared_is_not_shared_for_a_moment_either(rule: CacheRule) -> None:
    """A lifetime that is given in its origin's place must not let a visitor's cookie be stored."""
    with_cookie = response(Set_Cookie="session=1", Last_Modified="Mon, 01 Jan 2001 00:00:00 GMT")
    assert admit(request(), Timed(briefly(with_cookie, rule, NOW), NOW, NOW), rule) == NoStore(NoStoreReason.SET_COOKIE)
    qualified = response(Set_Cookie="session=1", Cache_Control='max-age=3600, private="set-cookie"')
    substitute = briefly(qualified, rule, NOW)
    assert isinstance(admit(request(), Timed(substitute, NOW, NOW), rule), Storable)
    assert "Set-Cookie" not in strip(substitute).headers


def test_a_moment_is_short() -> None:
    assert 0 < MOST_SECONDS <= 60
