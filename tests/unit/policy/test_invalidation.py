from __future__ import annotations

import pytest
from hypothesis import given

from edgecache.policy.invalidation import names_target, targets
from tests.unit.policy.values import FIELD_TEXT, request, response

HERE = "http://shop.test/a"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "FROBNICATE"])
@pytest.mark.parametrize("status", [200, 201, 204, 303])
def test_unsafe_and_unknown_methods_invalidate_their_target(method: str, status: int) -> None:
    assert targets(request(method=method), response(status=status)) == (HERE,)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_safe_methods_invalidate_nothing(method: str) -> None:
    assert targets(request(method=method), response(Location="/b")) == ()


@pytest.mark.parametrize("status", [100, 400, 404, 500])
def test_errors_invalidate_nothing(status: int) -> None:
    assert targets(request(method="POST"), response(status=status, Location="/b")) == ()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        pytest.param("/b?x=1#top", "http://shop.test/b?x=1", id="RFC9110-10.2.2 absolute path"),
        pytest.param("b", "http://shop.test/b", id="RFC9110-10.2.2 relative path"),
        pytest.param("?x", "http://shop.test/a?x", id="RFC9110-10.2.2 query"),
        pytest.param("http://SHOP.test:80", "http://shop.test/", id="RFC9111-4.4 same origin written otherwise"),
        pytest.param("//other.test/b", None, id="RFC9111-4.4 other host"),
        pytest.param("https://shop.test/b", None, id="RFC9111-4.4 other scheme"),
        pytest.param("http://shop.test:81/b", None, id="RFC9111-4.4 other port"),
        pytest.param("http://[::1/b", None, id="malformed address"),
        pytest.param("http://shop.test:99999/b", None, id="impossible port"),
    ],
)
@pytest.mark.parametrize("name", ["Location", "Content-Location"])
def test_what_the_answer_names(name: str, reference: str, expected: str | None) -> None:
    found = targets(request(method="POST"), response((name, reference)))
    assert found == ((HERE,) if expected is None else (HERE, expected))


@pytest.mark.parametrize(
    ("reference", "same"),
    [
        pytest.param("/a", True, id="RFC9110-8.7 path"),
        pytest.param("", True, id="RFC9110-8.7 empty reference"),
        pytest.param("http://SHOP.test:80/a", True, id="RFC9110-4.2.3 written otherwise"),
        pytest.param("/b", False, id="RFC9110-8.7 another resource"),
        pytest.param("/a?x", False, id="RFC9110-8.7 another query"),
        pytest.param("//other.test/a", False, id="RFC9110-8.7 another origin"),
        pytest.param("http://[::1/a", False, id="malformed address"),
    ],
)
def test_whether_a_reference_is_the_target_itself(reference: str, same: bool) -> None:
    assert names_target(request(method="POST"), reference) is same


@given(FIELD_TEXT)
def test_no_reference_leaves_the_origin(reference: str) -> None:
    for uri in targets(request(method="POST"), response(("Location", reference))):
        assert uri.startswith("http://shop.test/")
