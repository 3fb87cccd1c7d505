"""`make load`: Locust, headless, for a bounded time, against a demo that runs on this machine. Ends with a table."""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
from pathlib import Path

from demo.visit import get
from loadtests.guard import NotLocal, must_be_local

_LONGEST_S = 3600


def main() -> int:
    """0: every answer was right; 1: one was not, or there is no edge; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m loadtests", description="Load for a running demo.")
    parser.add_argument("--edge", default=os.environ.get("EDGE_URL", "http://127.0.0.1:8080"), help="default: %(default)s")
    parser.add_argument("--users", type=int, default=int(os.environ.get("LOAD_USERS", "20")), help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("LOAD_SECONDS", "20")), help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not 1 <= options.users <= 10_000 or not 1 <= options.seconds <= _LONGEST_S:
        parser.error(f"--users must be from 1 to 10000, --seconds from 1 to {_LONGEST_S}")
    try:
        edge = must_be_local(options.edge)
        first = get(edge, "/hello/load")
    except NotLocal as error:
        parser.error(str(error))
    except (OSError, http.client.HTTPException) as error:
        print(
            f"load: no edge answers at {options.edge} ({error}): start one with `make demo` in another terminal", file=sys.stderr
        )
        return 1
    if first.status != 200 or not first.cache:
        print(
            f"load: {edge} is no running demo: /hello/load is answered {first.status}; start one with `make demo`",
            file=sys.stderr,
        )
        return 1
    print(f"load: {options.users} users for {options.seconds} s on {edge}", flush=True)
    return _locust(edge, options.users, options.seconds, options.json)


def locust_command(edge: str, users: int, seconds: int, figures: str | None) -> tuple[list[str], dict[str, str]]:
    """What runs Locust headless on `edge`, and its environment; `figures`: a file for its tally in JSON."""
    here = Path(__file__).parent
    command = [
        *(sys.executable, "-m", "locust", "-f", str(here / "locustfile.py"), "--headless", "--host", edge),
        *("--users", str(users), "--spawn-rate", str(min(users, 50)), "--run-time", f"{seconds}s", "--stop-timeout", "10"),
        *("--only-summary", "--loglevel", "WARNING", "--skip-log-setup"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}
    if figures:
        environment["EDGECACHE_LOAD_JSON"] = str(Path(figures).resolve())
    return command, environment


def _locust(edge: str, users: int, seconds: int, figures: str | None) -> int:
    command, environment = locust_command(edge, users, seconds, figures)
    try:
        return subprocess.run(command, env=environment, check=False, timeout=seconds + 120).returncode
    except subprocess.TimeoutExpired:
        print(f"load: Locust had not ended {seconds + 120} s after its start, and was stopped", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1


if __name__ == "__main__":
    sys.exit(main())
