from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.problem import problem


def test_document() -> None:
    head, body = problem(504, "The source did not answer.", instance="urn:uuid:1", extensions={"reason": "timeout", "status": 1})
    assert (head.status, head.reason) == (504, "Gateway Timeout")
    assert head.headers["Content-Type"] == "application/problem+json"
    assert head.headers["Cache-Control"] == "no-store"
    assert int(head.headers["Content-Length"]) == len(body)
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Gateway Timeout",
        "status": 504,
        "detail": "The source did not answer.",
        "instance": "urn:uuid:1",
        "reason": "timeout",
    }


def test_unknown_status_has_a_title_all_the_same() -> None:
    head, body = problem(599, title="Odd")
    assert (head.reason, json.loads(body)["title"]) == ("Error", "Odd")
    assert "detail" not in json.loads(body)


@pytest.mark.parametrize("status", [200, 304, 399, 600])
def test_only_errors_are_problems(status: int) -> None:
    with pytest.raises(ValueError, match="not a status"):
        problem(status)


@given(st.text())
def test_any_detail_is_ascii_json(detail: str) -> None:
    body = problem(400, detail)[1]
    assert body.isascii()
    assert json.loads(body).get("detail", "") == detail
