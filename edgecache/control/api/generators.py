"""/v1/sites/{site}/generators: what a site's owner does with generators and their versions."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from edgecache.control.api import shapes
from edgecache.control.api.endpoint import ApiCall, Endpoint
from edgecache.control.api.messages import answer, flag, no_content, number, parameters, read_archive_body, read_json
from edgecache.control.problems import Code, Problem, not_found
from edgecache.control.records import Verb

_MAX_NUMBER: Final = 2**53
_MAX_LINES: Final = 10_000
_BASE: Final = "/v1/sites/{site}/generators"
_ONE: Final = _BASE + "/{name}"


class ActivateRequest(Struct, forbid_unknown_fields=True):
    """Which version gets how much."""

    version: int
    percent: int = 100


class Empty(Struct, forbid_unknown_fields=True):
    """A body that says nothing."""


async def list_generators(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    site = call.site
    state = call.services.state
    found = await state.generators(site.name)
    return answer({"generators": [shapes.generator(item, await state.versions(site.name, item.name)) for item in found]})


async def get_generator(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    return await _now(call)


async def remove_generator(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    name = call.name
    site = await call.services.deployer.remove(call.readmit, name)
    call.services.logs.remove(site.name, name)
    return no_content()


async def list_versions(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    generator, versions = await call.services.deployer.generator(call.site, call.name)
    return answer({"versions": [shapes.version(version, generator.active) for version in versions]})


async def push_version(call: ApiCall) -> web.Response:
    activate = flag(parameters(call.request, ("activate",)).get("activate"), "activate")
    site, name = call.site, call.name
    if activate:
        call.may(Verb.ACTIVATE, site.name)
    deployer = call.services.deployer
    async with deployer.receiving(site):
        archive = await read_archive_body(call.request, call.services.settings)
        version, new = await deployer.push(call.readmit, name, archive, activate=activate)
    generator = await call.services.state.generator(site.name, name)
    if generator is None:
        raise not_found(f"generator {name}")
    path = f"/v1/sites/{site.name}/generators/{name}/versions/{version.version}"
    shown = shapes.version(version, generator.active)
    return answer(shown, status=201, location=path) if new else answer(shown)


async def get_version(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    text = call.request.match_info["version"]
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise not_found(f"version {text[:16]!r}")
    site, name = call.site, call.name
    generator = await call.services.state.generator(site.name, name)
    version = await call.services.state.version(site.name, name, int(text))
    if generator is None or version is None:
        raise not_found(f"version {text} of the generator {name}")
    return answer(shapes.version(version, generator.active))


async def activate_version(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    form = await read_json(call.request, ActivateRequest, call.services.settings)
    for where, value, high in (("$.percent", form.percent, 100), ("$.version", form.version, _MAX_NUMBER)):
        if not 1 <= value <= high:
            raise Problem(Code.BAD_REQUEST, f"{where}: must be from 1 to {high}, not {value}", "correct the body", where=where)
    await call.services.deployer.activate(call.readmit, call.name, form.version, form.percent)
    return await _now(call)


async def roll_back(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    await read_json(call.request, Empty, call.services.settings, optional=True)
    await call.services.deployer.roll_back(call.readmit, call.name)
    return await _now(call)


async def logs(call: ApiCall) -> web.Response:
    given = parameters(call.request, ("lines", "after"))
    lines = number(given.get("lines", "100"), "lines", 1, _MAX_LINES)
    after = number(given["after"], "after", 0, _MAX_NUMBER) if "after" in given else None
    site, name = call.site, call.name
    if await call.services.state.generator(site.name, name) is None:
        raise not_found(f"generator {name}")
    return answer(shapes.logs(call.services.logs.read(site.name, name, lines=lines, after=after)))


async def _now(call: ApiCall) -> web.Response:
    return answer(shapes.generator(*await call.services.deployer.generator(call.site, call.name)))


ENDPOINTS: Final = (
    Endpoint("GET", _BASE, Verb.READ, list_generators),
    Endpoint("GET", _ONE, Verb.READ, get_generator),
    Endpoint("DELETE", _ONE, Verb.ACTIVATE, remove_generator),
    Endpoint("GET", _ONE + "/versions", Verb.READ, list_versions),
    Endpoint("POST", _ONE + "/versions", Verb.PUSH, push_version),
    Endpoint("GET", _ONE + "/versions/{version}", Verb.READ, get_version),
    Endpoint("POST", _ONE + "/activate", Verb.ACTIVATE, activate_version),
    Endpoint("POST", _ONE + "/rollback", Verb.ACTIVATE, roll_back),
    Endpoint("GET", _ONE + "/logs", Verb.LOGS, logs),
)
