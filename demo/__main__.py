"""`make demo`: start everything, push the example generators with a site's token, then show the tour, or walk it with --check."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import click

from demo.processes import DemoError, port, tail
from demo.stage import ROOT, SITE, Ports, Stage, set_stage, shorter
from demo.tour import AFTERWARDS, STOPS, Untrue
from sandbox.sdk import SdkError

PORTS = Ports(origin=8090, edge=8080, control=8081)


def main() -> int:
    """0: shown, or every stop of the tour is as it should be; 1: not."""
    parser = argparse.ArgumentParser(prog="make demo", description="An edge, an origin and example generators on this machine.")
    parser.add_argument("--check", action="store_true", help="walk the tour, exit 0 or 1")
    check = parser.parse_args().check
    # Killed or left by its terminal, the demo still stops what it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    folder = ROOT / ".run" / (f"check-{os.getpid()}" if check else "demo")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            ports = Ports(*(port(number, any_other=check) for number in PORTS))
            stage = set_stage(stack, folder, ports, say=_say)
            code = _walk(stage) if check else _show(stage, folder)
    except (DemoError, SdkError) as error:
        _say(f"\n{_red('demo failed')}: {error}")
        code = 1
    except click.ClickException as error:
        _say(f"\n{_red('demo failed')}: {error.format_message()}")
        code = 1
    except KeyboardInterrupt:
        _say("\nstopped")
        code = 1 if check else 0
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _walk(stage: Stage) -> int:
    failed = 0
    for number, stop in enumerate((*STOPS, *AFTERWARDS), 1):
        try:
            seen = stop.check(stage.walk())
            stage.edge.check()
            stage.origin.check()
        except (Untrue, OSError, http.client.HTTPException) as error:
            failed += 1
            what = str(error) if isinstance(error, Untrue) else f"{type(error).__name__}: {error}"
            _say(f"{_red('✗')} {number} {stop.title}\n    should be true: {what}")
        else:
            _say(f"{_green('✓')} {number} {stop.title}: {seen}")
    if failed:
        _say(f"\nthe end of the edge's log ({shorter(str(stage.edge.log))}):\n{tail(stage.edge.log)}")
    _say(f"demo: {len(STOPS) + len(AFTERWARDS) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _show(stage: Stage, folder: Path) -> int:
    _say(f"\n{_bold('Edgecache is running')}: edge {stage.url} · control {stage.site.url} · origin {stage.origin.ready[1]}\n")
    for number, stop in enumerate(STOPS, 1):
        _say(f" {number}  {_bold(stop.title)}\n    {stage.url}{stop.target}\n    {stop.why}")
    state = shorter(str(folder / "state"))
    _say(
        "\nIn another terminal:\n"
        f"    curl -si {stage.url}/hello/Ada | grep -i -e cache-status -e ^age\n"
        f"    .venv/bin/edgecache top --url {stage.site.url} --state {state}\n"
        f"    .venv/bin/edgecache generator logs hello --site {SITE} --url {stage.site.url} --state {state}\n"
        "    make load\n\n"
        "Ctrl-C stops everything."
    )
    while True:
        time.sleep(0.5)
        stage.edge.check()
        stage.origin.check()


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, flush=True)


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def _bold(text: str) -> str:
    return _styled(text, "1")


def _green(text: str) -> str:
    return _styled(text, "32")


def _red(text: str) -> str:
    return _styled(text, "31")


if __name__ == "__main__":
    sys.exit(main())
