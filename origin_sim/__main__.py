"""`python -m origin_sim`: run the shop until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

from origin_sim.server import Shop


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when it was stopped, 1 when it could not start."""
    parser = argparse.ArgumentParser(prog="python -m origin_sim", description="A small shop that can be slow, wrong and broken.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8090, help="port to listen on; 0 takes a free one (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(options.host, options.port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        print(f"origin_sim: cannot listen on {options.host}:{options.port}: {reason}; try another --port", file=sys.stderr)
        return 1
    return 0


async def _serve(host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Shop(host=host, port=port) as shop:
        print(f"origin_sim: ready on {shop.url}/", flush=True)
        await stop.wait()


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {text[:20]!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
