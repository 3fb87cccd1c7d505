"""What changes while a request waits for its body, or for verification, holds for it: revoked tokens, lowered ceilings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandbox import GuestRequest, Limits, Program, Verification
from tests.control_support import BASE, Api, TrialSandbox, bundle, running, split

VERBS = ("push", "activate", "purge", "logs", "read")


@contextlib.asynccontextmanager
async def half_sent(
    api: Api, path: str, body: bytes, token: str, kind: str = "application/json"
) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """A request that is let in at its head, of whose body the end is sent, and the status read, when it is said so."""
    reader, writer = await asyncio.open_connection(*api.control.address)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\nExpect: 100-continue\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"100"
    await reader.readline()

    async def finish() -> int:
        writer.write(body)
        return int((await reader.readline()).split()[1])

    try:
        yield finish
    finally:
        writer.close()


async def revoke(api: Api, token: str) -> None:
    assert (await api.call("DELETE", f"/v1/tokens/{token.split('_')[1]}")).status == 204


async def test_no_token_is_made_with_one_that_was_revoked_meanwhile(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        stolen = str((await api.call("POST", "/v1/tokens", {"operator": True})).json["token"])
        async with half_sent(api, "/v1/tokens", b'{"operator": true}', stolen) as finish:
            await revoke(api, stolen)
            assert await finish() == 401
        left = (await api.call("GET", "/v1/tokens")).json["tokens"]
        assert isinstance(left, list)
        assert [token["id"] in api.token for token in left] == [True]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (BASE + "/activate", b'{"version": 1}', "application/json"),
        (BASE + "/versions?activate=true", bundle(text="evil"), "application/x-tar"),
        ("/v1/purge", b'{"site": "shop"}', "application/json"),
    ],
)
async def test_what_a_revoked_token_began_is_not_done(tmp_path: Path, path: str, body: bytes, kind: str) -> None:
    async with running(tmp_path) as api:
        await api.site()
        await api.push(bundle())
        token = await api.token_for("shop", *VERBS)
        async with half_sent(api, path, body, token, kind) as finish:
            await revoke(api, token)
            assert await finish() == 401
        assert await split(api) == {}
        assert not api.purges
        assert len((await api.call("GET", BASE + "/versions")).json["versions"]) == 1  # type: ignore[arg-type]


class SlowSandbox(TrialSandbox):
    """Verifies when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def verify(self, program: Program, limits: Limits, sample: GuestRequest) -> Verification:
        self.begun.set()
        await self.may_end.wait()
        return await super().verify(program, limits, sample)


async def test_a_revoked_tokens_push_is_not_activated_once_it_is_verified(tmp_path: Path) -> None:
    sandbox = SlowSandbox()
    async with running(tmp_path, sandbox=sandbox) as api, asyncio.TaskGroup() as group:
        await api.site()
        token = await api.token_for("shop", *VERBS)
        pushing = group.create_task(api.push(bundle(), query="?activate=true", token=token))
        waiting = group.create_task(api.push(bundle(text="other"), query="?activate=true", token=token))
        await sandbox.begun.wait()
        await revoke(api, token)
        sandbox.may_end.set()
        assert [(await pushing).status, (await waiting).status] == [401, 401]
        assert await split(api) == {}


async def test_a_ceiling_that_was_lowered_while_a_push_waited_holds(tmp_path: Path) -> None:
    sandbox = SlowSandbox()
    async with running(tmp_path, sandbox=sandbox) as api, asyncio.TaskGroup() as group:
        await api.site()
        first = group.create_task(api.push(bundle()))
        await sandbox.begun.wait()
        second = group.create_task(api.push(bundle(more="limits: {memory: 64MiB}\n")))
        changed = await api.call("PATCH", "/v1/sites/shop", {"ceiling": {"memory": "32MiB"}})
        assert changed.status == 200, changed.body
        sandbox.may_end.set()
        assert (await first).status == 201
        assert (await second).code == "limits-exceed-ceiling"
