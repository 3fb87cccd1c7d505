"""Origins and clients that misbehave at random: no body is another's, nobody waits for ever, nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from edgecache.serve.settings import ServeSettings
from tests.integration.aftermath_support import (
    Remains,
    defects,
    descriptors,
    descriptors_beyond,
    left_over,
    not_once,
    recorded,
    total,
    wrong_pages,
)
from tests.integration.chaos_support import (
    ANSWER_SECONDS,
    PATHS,
    Asker,
    Chaos,
    Generations,
    chaotic,
    meanwhile,
    meddle,
    requests,
    seeds,
)
from tests.integration.proxy_support import read_head

REQUESTS = requests(1500)
CLIENTS = 24


class Client(Asker):
    """Whatever it is told with 200 is its own."""

    async def run(self, requests: int) -> None:
        while requests > 0:
            reader, writer = await asyncio.open_connection(*self.edge.address)
            try:
                async with asyncio.timeout(ANSWER_SECONDS * 3):
                    requests -= await self._connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                requests -= 1
            finally:
                writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """How many requests it has sent."""
        sent = 0
        for _ in range(self.random.randint(1, 12)):
            wanted = [self._request() for _ in range(self.random.choice((1, 1, 1, 2, 5)))]
            data = b"".join(self._encoded(method, path, extra) for method, path, extra in wanted)
            leaves, floor = self.random.random(), self.generations.floor
            if leaves < 0.03:
                writer.write(data[: self.random.randrange(len(data))])
                return sent + 1
            if self.random.random() < 0.1:
                cut = self.random.randrange(len(data))
                writer.write(data[:cut])
                await asyncio.sleep(0.002)
                data = data[cut:]
            writer.write(data)
            sent += len(wanted)
            if leaves < 0.12:
                await asyncio.sleep(self.random.choice((0, 0.001, 0.02)))
                return sent
            for method, path, _ in wanted:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if not await self._read(reader, method, path, floor):
                        return sent
        return sent

    def _request(self) -> tuple[str, str, str]:
        method = self.random.choice(("GET",) * 8 + ("HEAD", "POST"))
        extra = self.random.choice(
            ("",) * 12
            + ("Range: bytes=0-9\r\n", 'If-None-Match: "x"\r\n', "Authorization: me\r\n", "Cache-Control: no-cache\r\n")
            + ("Cache-Control: no-store\r\n", "Connection: close\r\n", "TE: trailers\r\nConnection: TE\r\n")
        )
        return method, f"/p{self.random.randrange(PATHS)}", extra

    def _encoded(self, method: str, path: str, extra: str) -> bytes:
        body = "Content-Length: 3\r\n\r\nabc" if method == "POST" else "\r\n"
        who = f"Cookie: who={self.name}\r\nAccept-Language: {self.language}\r\n"
        return f"{method} {path} HTTP/1.1\r\nHost: e\r\n{who}{extra}{body}".encode()

    async def _read(self, reader: asyncio.StreamReader, method: str, path: str, floor: int) -> bool:
        """One answer, made after `floor`. False: the connection is not for another one."""
        status, fields = 100, dict[str, str]()
        while status < 200:
            lines = (await read_head(reader)).decode("latin-1").split("\r\n")
            assert lines[0].startswith("HTTP/1.1 "), lines[0]
            status = int(lines[0].split(" ")[1])
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        body = b""
        if method != "HEAD" and status not in {204, 304}:
            if "transfer-encoding" in fields:
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
            elif "content-length" in fields:
                body = await reader.readexactly(int(fields["content-length"]))
            else:
                body = await reader.read(-1)
        self.told(status, fields)
        if status == 200:
            assert fields["x-path"] == path
        if status == 200 and method != "HEAD":
            self.assert_own(path, floor, fields, body)
        return fields.get("connection") != "close"


@pytest.mark.parametrize("seed", seeds(4))
async def test_whatever_goes_wrong_answers_are_their_askers_and_nothing_is_left(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    generations = Generations()
    origins = [Chaos(random.Random(chance.random()), generations) for _ in range(2)]
    with Remains() as remains:
        async with chaotic(origins, chance, ServeSettings(keepalive_timeout=1.0, head_timeout=2.0)) as edge:
            before = descriptors()
            clients = [Client(edge, random.Random(chance.random()), f"c{number}", generations) for number in range(CLIENTS)]
            async with meanwhile(meddle(edge, chance, generations)):
                await asyncio.gather(*(client.run(REQUESTS // CLIENTS) for client in clients))
            assert await left_over(edge, remains) == Counter()
            assert defects(caplog.records) == []
            statuses = total(client.statuses for client in clients)
            assert statuses[200] > REQUESTS // 4, statuses
            assert edge.pipeline.errands.answered > 0
            assert not_once(recorded(edge), total(client.complete for client in clients)) == {}
            for origin in origins:
                origin.calm = True
            assert await wrong_pages(edge, PATHS) == []
            await edge.client.close()
            # What is kept to origins, and no more.
            assert await descriptors_beyond(before + 4 * CLIENTS) == 0
