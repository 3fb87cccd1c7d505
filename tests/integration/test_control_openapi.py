"""openapi.yaml is true: its paths are the routes, and what the API answers is what it says, success and refusal alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from edgecache.control.api.routes import ENDPOINTS
from edgecache.control.api.status import document
from edgecache.control.problems import Code
from tests.control_support import Answer, Api, bundle, running

_METHODS = {"get", "post", "put", "patch", "delete"}


def test_the_document_is_openapi() -> None:
    openapi_spec_validator.validate(document())


def test_every_route_is_described_and_every_description_is_a_route() -> None:
    described = {(method.upper(), path) for path, item in document()["paths"].items() for method in item if method in _METHODS}
    assert described == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


def test_every_problem_code_is_listed() -> None:
    assert document()["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == [str(code) for code in Code]


def check(method: str, path: str, answer: Answer) -> None:
    """The answer has a described status, content type and shape."""
    template = next(
        path_template
        for path_template in document()["paths"]
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path_template), path.partition("?")[0])
    )
    responses: dict[str, Any] = document()["paths"][template][method.lower()]["responses"]
    described = responses.get(str(answer.status)) or responses["default"]
    while "$ref" in described:
        described = _resolved(described["$ref"])
    content = described.get("content")
    if content is None:
        assert answer.body == b""
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    registry = Registry().with_resource("urn:openapi", Resource(document(), DRAFT202012))
    schema = {"$ref": "urn:openapi#" + _pointer(template, method, answer.status, kind, responses)}
    Draft202012Validator(schema, registry=registry, format_checker=jsonschema.FormatChecker()).validate(answer.json)
    assert kind in content


def _pointer(template: str, method: str, status: int, kind: str, responses: dict[str, Any]) -> str:
    name = str(status) if str(status) in responses else "default"
    base = f"/paths/{_escaped(template)}/{method.lower()}/responses/{name}"
    if "$ref" in responses[name]:
        base = responses[name]["$ref"].removeprefix("#")
    return f"{base}/content/{_escaped(kind)}/schema"


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


def _resolved(reference: str) -> dict[str, Any]:
    value: Any = document()
    for part in reference.removeprefix("#/").split("/"):
        value = value[part]
    assert isinstance(value, dict)
    return value


class Checked:
    """Calls, each answer of which is checked."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.seen: set[tuple[str, str]] = set()

    async def __call__(self, method: str, path: str, json: object = None, *, status: int, **more: Any) -> Answer:
        answer = await self.api.call(method, path, json, **more)
        assert answer.status == status, (method, path, answer.body)
        check(method, path, answer)
        return answer


async def test_what_the_api_answers_is_what_the_document_says(tmp_path: Path) -> None:
    row = {"weight": 1, "cap": None, "cpu_ns": 5, "promised": 0.5, "received": 0.25}
    sandbox = {"engine": "unicorn", "clusters": {"default": row}, "sites": {"shop": row}, "generators": {"shop/hello@1": row}}
    parts = {"sandbox": sandbox, "cache": {"bytes": 1}}
    async with running(tmp_path, status_parts=parts) as api:
        call = Checked(api)
        base = "/v1/sites/shop/generators/hello"
        await call("GET", "/v1/healthz", status=200)
        await call("GET", "/v1/openapi.json", status=200)
        site = {"name": "shop", "hosts": ["shop.test"], "origins": ["http://127.0.0.1:1"], "cache": {"default_ttl": "60s"}}
        await call("POST", "/v1/sites", site, status=201)
        await call("POST", "/v1/sites", site, status=409)
        await call("POST", "/v1/sites", {"name": "Shop"}, status=400)
        await call("GET", "/v1/sites", status=200)
        await call("GET", "/v1/sites/shop", status=200)
        await call("GET", "/v1/sites/none", status=404)
        await call("PUT", "/v1/clusters/gold", {"weight": 3}, status=201)
        await call("PUT", "/v1/clusters/gold", {"weight": 4, "cap": 150}, status=200)
        await call("PATCH", "/v1/clusters/gold", {"cap": None}, status=200)
        await call("PATCH", "/v1/clusters/tin", {"weight": 2}, status=404)
        await call("PATCH", "/v1/clusters/gold", {"cap": 0}, status=400)
        await call("GET", "/v1/clusters", status=200)
        await call("GET", "/v1/clusters/gold", status=200)
        await call("PATCH", "/v1/sites/shop", {"cluster": "gold", "cap": 50}, status=200)
        await call("DELETE", "/v1/clusters/gold", status=409)
        await call(
            "PATCH",
            "/v1/sites/shop",
            {"weight": 3, "ceiling": {"cpu": "40ms"}, "cache": {"compress": ["zstd", "gzip"]}},
            status=200,
        )
        pool = ["http://127.0.0.1:1", {"url": "http://127.0.0.1:2", "weight": 2, "backup": True, "proxy_protocol": 1}]
        parts_of_it = {"health": {}, "ejection": {}, "hedge": {"after": "1s"}, "breaker": {"max_failures": 3}}
        await call("PATCH", "/v1/sites/shop", {"origins": pool, "upstream": parts_of_it}, status=200)
        await call("PATCH", "/v1/sites/shop", {"upstream": {"health": None, "balance": "hash"}}, status=200)
        made = await call("POST", "/v1/tokens", {"site": "shop", "verbs": ["push"], "expires_in": "1h"}, status=201)
        await call("GET", "/v1/tokens", status=200)
        await call("GET", "/v1/tokens?site=shop", status=200)
        await call("GET", "/v1/tokens?place=shop", status=400)
        await call("GET", "/v1/sites", status=403, token=str(made.json["token"]))
        await call("GET", "/v1/sites", status=401, token="nobody")
        await call(
            "POST", base + "/versions", data=bundle(more="sample: {path: /hello/, headers: {Accept: text/html}}\n"), status=201
        )
        await call("POST", base + "/versions?activate=true", data=bundle(text="two"), status=201)
        await call("POST", base + "/versions", data=bundle(text="two"), status=200)
        await call("POST", base + "/versions", data=bundle(more="limits: {cpu: 1h}\n"), status=422)
        await call("POST", base + "/versions", data=bundle(more="limit: {cpu: 1h}\nenv: {HTTP_X: y}\n"), status=422)
        await call("POST", base + "/versions", data=b"not a tar", status=422)
        await call("GET", base + "/versions", status=200)
        await call("GET", base + "/versions/1", status=200)
        await call("GET", base + "/versions/9", status=404)
        await call("POST", base + "/activate", {"version": 1, "percent": 25}, status=200)
        await call("POST", base + "/activate", {"version": 1, "percent": 0}, status=400)
        await call("POST", base + "/rollback", status=200)
        await call("POST", base + "/rollback", {}, status=409)
        await call("GET", "/v1/sites/shop/generators", status=200)
        await call("GET", base, status=200)
        api.control.logs.of("shop", "hello").write(1, "r-1", b"one\ntwo")
        await call("GET", base + "/logs?lines=10&after=0", status=200)
        await call("GET", base + "/logs?lines=0", status=400)
        await call("GET", "/v1/status", status=200)
        await call("POST", "/v1/purge", {"tag": "a", "soft": True}, status=200)
        await call("POST", "/v1/purge", {"tag": "a", "refresh": True}, status=200)
        await call("POST", "/v1/purge", {}, status=400)
        await call("DELETE", base, status=204)
        await call("DELETE", f"/v1/tokens/{made.json['id']}", status=204)
        await call("DELETE", "/v1/sites/shop", status=204)
        await call("DELETE", "/v1/clusters/gold", status=204)


async def test_the_served_document_is_the_file(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        assert (await api.call("GET", "/v1/openapi.json", token="")).json == document()


async def test_the_check_itself_refuses_what_is_not_described(tmp_path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check("GET", "/v1/healthz", Answer(200, {"Content-Type": "application/json"}, b'{"status": "odd"}'))
