"""What the control API says no to: always a problem document that says what to do, never a traceback, never plain text."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from edgecache.control.api.routes import ENDPOINTS
from tests.control_support import Api, running
from tests.integration.test_control_openapi import check

HOSTILE: tuple[Any, ...] = (
    None,
    [],
    "text",
    7,
    {},
    {"": 1},
    {"name": None, "hosts": None, "origins": None},
    {"name": "a" * 5000, "hosts": ["x" * 5000] * 2, "origins": ["http://" + "y" * 5000]},
    {"weight": "3", "cap": -1},
    {"urls": [1, None], "tag": 5},
    {"version": 10**400, "percent": 1.5},
    {"site": "../..", "verbs": ["push\x00"]},
)


async def raw(api: Api, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """The answer to these bytes: status, fields, body."""
    reader, writer = await asyncio.open_connection(*api.control.address)
    writer.write(data)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}, body


@pytest.mark.parametrize(
    ("request_bytes", "said"),
    [
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", "method is not one of HTTP's"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "method is not one of HTTP's"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "too long"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", "too long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "not readable as HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "not readable as HTTP/1.1"),
    ],
)
async def test_what_is_no_http_is_refused_as_everything_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_bytes: bytes, said: str
) -> None:
    async with running(tmp_path) as api:
        for _ in range(3):
            status, fields, body = await raw(api, request_bytes + b"\r\n\r\n")
            assert (status, fields["content-type"], fields["cache-control"]) == (400, "application/problem+json", "no-store")
            document = json.loads(body)
            assert (document["code"], document["status"]) == ("bad-request", 400)
            assert said in document["detail"]
            assert document["advice"]
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING and record.exc_info]


async def test_head_is_answered_where_get_is(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        for path, status in (("/v1/healthz", 200), ("/v1/sites", 200), ("/v1/sites/none", 404)):
            got, seen = await api.call("HEAD", path), await api.call("GET", path)
            assert (got.status, got.body) == (status, b"")
            assert got.headers["Content-Length"] == seen.headers["Content-Length"]
        refused = await api.call("DELETE", "/v1/status")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")


async def test_every_route_refuses_what_is_hostile_as_the_document_says(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        await api.call("POST", "/v1/sites", {"name": "shop", "hosts": ["shop.test"], "origins": ["http://127.0.0.1:1"]})
        for endpoint, sent in itertools.product(ENDPOINTS, HOSTILE):
            path = endpoint.path.format(site="shop", name="none", version="1", id="none")
            got = await api.call(endpoint.method, path, sent)
            assert got.status < 500, (endpoint, sent, got.body)
            if not (got.status == 204 and got.body == b""):
                check(endpoint.method, path, got)


@pytest.mark.parametrize(
    ("body", "where", "said"),
    [
        ({"urls": ["http://a.test/", "/x"]}, "$.urls[1]", "must be an absolute http or https URL, not '/x'"),
        ({"prefix": "a.test/"}, "$.prefix", "must be an absolute http or https URL, not 'a.test/'"),
        ({"tag": "a,b"}, "$.tag", "must be visible ASCII without a comma, not 'a,b'"),
        ({"host": "a b"}, "$.host", "must be a host name"),
        ({"host": "http://a.test"}, "$.host", "must be a host name"),
        ({"tag": 5}, "$.tag", "must be text or null, not a whole number"),
    ],
)
async def test_a_purge_that_can_name_nothing_is_refused(tmp_path: Path, body: dict[str, object], where: str, said: str) -> None:
    async with running(tmp_path) as api:
        got = await api.call("POST", "/v1/purge", body)
        assert (got.status, got.json["code"], got.json["where"]) == (400, "bad-request", where)
        assert said in str(got.json["detail"])


async def test_what_can_be_chosen_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        got = await api.call("POST", "/v1/purge", {"all": True})
        assert "unknown key 'all'; known here: urls, tag, prefix, host, site, everything, soft, refresh" in str(
            got.json["detail"]
        )
        got = await api.call("POST", "/v1/purge", {"tags": ["a"]})
        assert "unknown key 'tags'; did you mean tag?" in str(got.json["detail"])
        got = await api.call("POST", "/v1/tokens", {"site": "shop", "verbs": ["fly"]})
        assert "'fly'; choose from push, activate, purge, logs, read" in str(got.json["detail"])


@pytest.mark.parametrize("field", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer " + "a" * 300, "token"])
async def test_a_field_that_is_no_bearer_token_is_told_apart_from_none(tmp_path: Path, field: str) -> None:
    async with running(tmp_path) as api:
        got = await api.call("GET", "/v1/status", headers={"Authorization": field})
        assert (got.status, got.json["detail"]) == (401, "the field Authorization is not `Bearer TOKEN`, once")
        _, _, body = await raw(api, b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert json.loads(body)["detail"] == "the request carries no token"
