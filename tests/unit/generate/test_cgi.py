"""RFC 3875 in both directions; whatever a program writes, only a clean response or BadAnswer comes out."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.generate import cgi
from edgecache.policy.message import Request


def request(target: str = "/hello/w%6Frld?q=1%202", authority: str = "shop.test:8080", **fields: str) -> Request:
    headers = CIMultiDict((name.replace("_", "-"), value) for name, value in fields.items())
    return Request("GET", "http", authority, target, CIMultiDictProxy(headers))


def variables(given_request: Request, body: bytes = b"") -> dict[bytes, bytes]:
    return dict(cgi.environ(given_request, body, client_ip="192.0.2.7", request_id="r1"))


def test_meta_variables_follow_section_4_1() -> None:
    found = variables(request(Accept_Language="de", Content_Type="text/plain"), b"abc")
    assert found[b"REQUEST_METHOD"] == b"GET"
    assert found[b"PATH_INFO"] == b"/hello/world"
    assert found[b"REQUEST_URI"] == b"/hello/w%6Frld?q=1%202"
    assert found[b"QUERY_STRING"] == b"q=1%202"
    assert (found[b"SERVER_NAME"], found[b"SERVER_PORT"]) == (b"shop.test", b"8080")
    assert found[b"CONTENT_LENGTH"] == b"3"
    assert found[b"CONTENT_TYPE"] == b"text/plain"
    assert found[b"HTTP_ACCEPT_LANGUAGE"] == b"de"
    assert found[b"REMOTE_ADDR"] == b"192.0.2.7"
    assert found[b"REQUEST_ID"] == b"r1"


def test_content_length_comes_first_as_scgi_wants_it() -> None:
    assert cgi.environ(request(), b"xy", client_ip="::1", request_id="r")[0] == (b"CONTENT_LENGTH", b"2")


@pytest.mark.parametrize(("authority", "port"), [("shop.test", b"80"), ("[::1]:81", b"81"), ("[::1]", b"80")])
def test_port_has_the_schemes_default(authority: str, port: bytes) -> None:
    assert variables(request(authority=authority))[b"SERVER_PORT"] == port


@pytest.mark.parametrize("name", ["Authorization", "Proxy", "Proxy_Authorization"])
def test_credentials_and_httpoxy_are_withheld(name: str) -> None:
    assert not any(b"AUTHORIZATION" in key or key == b"HTTP_PROXY" for key in variables(request(**{name: "secret"})))


def test_a_name_with_an_underscore_cannot_pose_as_one_with_a_hyphen() -> None:
    headers = CIMultiDictProxy(CIMultiDict([("X_Real-IP", "evil"), ("X-Real-IP", "true")]))
    assert variables(Request("GET", "http", "h", "/", headers))[b"HTTP_X_REAL_IP"] == b"true"


def test_repeated_fields_are_joined() -> None:
    headers = CIMultiDictProxy(CIMultiDict([("A", "1"), ("A", "2"), ("Cookie", "x=1"), ("Cookie", "y=2")]))
    found = variables(Request("GET", "http", "h", "/", headers))
    assert found[b"HTTP_A"] == b"1, 2"
    assert found[b"HTTP_COOKIE"] == b"x=1; y=2"


def test_no_variable_holds_a_nul() -> None:
    assert all(b"\0" not in name + value for name, value in cgi.environ(request("/a%00b"), b"", client_ip="", request_id=""))


def test_a_nul_in_the_path_cuts_nothing_short() -> None:
    assert variables(request("/a%00b"))[b"PATH_INFO"] == b"/a%00b"
    assert cgi.holds_nul("/a%00b")
    assert not cgi.holds_nul("/a?b=%00")


@pytest.mark.parametrize(
    ("output", "status", "reason"),
    [
        (b"Content-Type: text/plain\n\nhi", 200, "OK"),
        (b"Content-Type: text/plain\r\n\r\nhi", 200, "OK"),
        (b"Status: 404 Gone fishing\nContent-Type: a/b\n\nhi", 404, "Gone fishing"),
        (b"Status: 201\nContent-Type: a/b\n\nhi", 201, "Created"),
        (b"Status: 299\n\nhi", 299, ""),
        (b"Location: /elsewhere\n\nhi", 302, "Found"),
        (b"Status: 301\nLocation: /elsewhere\n\nhi", 301, "Moved Permanently"),
    ],
)
def test_status_follows_section_6_2(output: bytes, status: int, reason: str) -> None:
    answer = cgi.parse(output)
    assert answer is not None
    assert (answer.response.status, answer.response.reason, answer.rest) == (status, reason, b"hi")
    assert "Status" not in answer.response.headers


def test_the_connections_fields_are_not_the_programs_to_set() -> None:
    answer = cgi.parse(b"Content-Type: a/b\nConnection: close\nTransfer-Encoding: chunked\nAge: 9\nX-A: 1\n\n")
    assert answer is not None
    assert list(answer.response.headers.items()) == [("Content-Type", "a/b"), ("X-A", "1")]


@pytest.mark.parametrize(
    "output",
    [
        b"\n",
        b"\r\nbody",
        b"X-Only: 1\n\n",
        b"no colon\n\n",
        b"Content-Type: a/b\nX: 1\rSet-Cookie: a=b\n\n",
        b"Content-Type: a/b\nX: \x00\n\n",
        b"Content-Type: a/b\n folded: 1\n\n",
        b"Content Type: a/b\n\n",
        b": empty\n\n",
        b"Status: 100 Continue\n\n",
        b"Status: 101 Switching\n\n",
        b"Status: 600 x\n\n",
        b"Status: 20\n\n",
        b"Status: 200 a\x7fb\n\n",
        b"Content-Type: a/b\nContent-Length: 1\nContent-Length: 2\n\n",
        b"Content-Type: a/b\nContent-Length: -1\n\n",
        b"A: 1\n" * (cgi.MAX_FIELDS + 1) + b"\n",
        b"A: " + b"x" * cgi.MAX_HEAD_BYTES + b"\n\n",
        b"x" * (cgi.MAX_HEAD_BYTES + 1),
    ],
)
def test_a_malformed_answer_is_refused(output: bytes) -> None:
    with pytest.raises(cgi.BadAnswer):
        cgi.parse(output)


def test_an_incomplete_head_waits_for_more() -> None:
    assert cgi.parse(b"Content-Type: a/b\n") is None
    assert cgi.parse(b"") is None


@given(st.binary(max_size=300))
def test_any_bytes_give_a_clean_answer_or_bad_answer(data: bytes) -> None:
    try:
        answer = cgi.parse(data)
    except cgi.BadAnswer as error:
        assert str(error).isprintable()
        return
    if answer is not None:
        assert 200 <= answer.response.status <= 599
        for name, value in answer.response.headers.items():
            assert re.fullmatch(r"[!-9;-~]+", name)
            assert not set(value) & {"\r", "\n", "\0"}


@given(
    st.dictionaries(st.from_regex(r"\AX-[A-Za-z]{1,8}\Z"), st.from_regex(r"\A[!-~]{0,20}\Z"), max_size=5), st.binary(max_size=50)
)
def test_what_was_written_is_what_is_read(fields: dict[str, str], body: bytes) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    answer = cgi.parse(b"Status: 200 OK\r\n" + head.encode() + b"\r\n" + body)
    assert answer is not None
    assert dict(answer.response.headers) == dict(CIMultiDict(fields))
    assert answer.rest == body
