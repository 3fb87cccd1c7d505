"""Responses taken apart as they are on the wire, and an origin that says what of a request has reached it."""

from __future__ import annotations

from aiohttp import web


async def echo(request: web.BaseRequest) -> web.Response:
    body = await request.read()
    return web.json_response({"method": request.method, "target": request.raw_path, "host": request.host, "body": body.decode()})


def split(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of one response."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body
