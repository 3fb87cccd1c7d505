"""`python -m sandbox`: run one program in a VM of this process, measure what VMs cost here, or show the workers' jail.

A thin shell: it parses arguments, calls `vm` or `bench`, and prints. Exit codes: 0 done, 1 failed, 2 usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from sandbox.engines import ENGINES
from sandbox.errors import GuestFailed, SandboxError
from sandbox.events import Booted, Ended, HostCall
from sandbox.jail import JailReport
from sandbox.limits import DEFAULT_LIMITS, KIB, MIB, MILLISECOND_NS, SECOND_NS, Limits
from sandbox.outcome import Outcome
from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.vm import Template, Vm, load

_SLICE_NS: Final = SECOND_NS // 10
_NO_SUCH_CALL: Final = -38
_MAX_CPU_MS: Final = 3_600_000
_MEMORY = re.compile(r"([0-9]{1,12})(KiB|MiB|GiB)?")
_UNITS: Final = {None: 1, "KiB": KIB, "MiB": MIB, "GiB": 1 << 30}
_MAX_MEMORY: Final = 4 << 30


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return {"bench": _bench, "jail": _jail, "run": _run}[options.command](options)
    except GuestFailed as failed:
        return _say(f"the program failed: {failed}")
    except (SandboxError, ValueError) as error:
        return _say(str(error))
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sandbox", description="Static x86-64 Linux programs in small virtual machines.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    run = commands.add_parser("run", help="run PROGRAM once; its output goes to stdout, its log to stderr")
    run.add_argument("program", type=Path, help="a static x86-64 ELF executable")
    run.add_argument("args", nargs="*", help="argv[1:]; put -- before those that begin with a dash")
    run.add_argument("--engine", choices=ENGINES, default="auto")
    run.add_argument("--cpu-ms", type=_milliseconds, default=1000, metavar="N", help="CPU time for the request (default 1000)")
    run.add_argument("--memory", type=_memory, default=64 * MIB, metavar="M", help="bytes, or with KiB, MiB, GiB (default 64MiB)")
    run.add_argument("--request", metavar="FILE", help="the request's body; - is stdin (default: a GET without a body)")
    run.add_argument("--convention", choices=("cgi", "resident", "auto"), default="auto")
    bench = commands.add_parser("bench", help="measure VMs, throughput and fairness on this machine (about three minutes)")
    bench.add_argument("--engine", choices=ENGINES, default="auto")
    bench.add_argument("--vms", type=_count, default=200, metavar="N", help="warm VMs at once (default 200)")
    bench.add_argument("--quick", action="store_true", help="load for fewer seconds: rougher figures")
    bench.add_argument("--plots", type=Path, metavar="DIR", help="draw throughput.png and shares.png there (needs matplotlib)")
    bench.add_argument("--peers", action="store_true", help="also what others take for the same page, as far as they are here")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    shown = commands.add_parser("jail", help="show which layers of a worker's jail are in force here, and its system call filter")
    shown.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _milliseconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _MAX_CPU_MS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of milliseconds from 1 to {_MAX_CPU_MS}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


def _memory(text: str) -> int:
    match = _MEMORY.fullmatch(text)
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < size <= _MAX_MEMORY or size % 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: whole 4 KiB pages up to 4GiB, as 67108864 or 64MiB")
    return size


def _run(options: argparse.Namespace) -> int:
    path: Path = options.program
    body = (
        b""
        if options.request is None
        else sys.stdin.buffer.read()
        if options.request == "-"
        else Path(options.request).read_bytes()
    )
    limits = replace(DEFAULT_LIMITS, cpu_ns=options.cpu_ms * MILLISECOND_NS, memory_bytes=options.memory)
    try:
        program = Program(path.read_bytes(), Convention.RESIDENT, path.name, tuple(options.args))
        template = _template(program, limits, options)
    except SandboxError as error:
        return _say(f"cannot run {path}: {error}")
    try:
        return _serve(template, options.engine, _request(body, options), limits)
    finally:
        template.close()


def _request(body: bytes, options: argparse.Namespace) -> GuestRequest:
    """A plausible request for a program tried by hand (RFC 3875 section 4.1)."""
    method = b"GET" if options.request is None else b"POST"
    variables = {
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"REQUEST_METHOD": method,
        b"SCRIPT_NAME": b"/" + os.fsencode(options.program.name),
        b"PATH_INFO": b"/",
        b"QUERY_STRING": b"",
        b"SERVER_NAME": b"localhost",
        b"SERVER_PORT": b"80",
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"SERVER_SOFTWARE": b"edgecache",
        b"REMOTE_ADDR": b"127.0.0.1",
        b"HTTP_HOST": b"localhost",
    }
    return GuestRequest(tuple(variables.items()), body)


def _template(program: Program, limits: Limits, options: argparse.Namespace) -> Template:
    """What the request's VM is forked from. `auto` is resident exactly when the program asks for a request."""
    if options.convention == "cgi":
        return load(replace(program, convention=Convention.CGI), limits)
    loaded = load(program, limits)
    vm = Vm(loaded, options.engine)
    try:
        while True:
            part = vm.run(_SLICE_NS)
            if isinstance(part.event, Booted):
                _log(part.log)
                return vm.freeze()
            if isinstance(part.event, Ended):
                if options.convention == "auto":
                    return load(replace(program, convention=Convention.CGI), limits)
                _log(part.log)
                raise GuestFailed(part.event.outcome)
    finally:
        vm.close()
        loaded.close()


def _serve(template: Template, engine: str, request: GuestRequest, limits: Limits) -> int:
    vm = Vm(template, engine)
    try:
        vm.begin(request, limits)
        while True:
            part = vm.run(_SLICE_NS)
            sys.stdout.buffer.write(part.output)
            sys.stdout.buffer.flush()
            _log(part.log)
            if isinstance(part.event, HostCall):
                vm.answer(_NO_SUCH_CALL)  # there is no edge to ask
            elif isinstance(part.event, Ended):
                return _ended(part.event.outcome)
    finally:
        vm.close()


def _ended(outcome: Outcome) -> int:
    if outcome.ok:
        return 0
    unknown = ", ".join(str(number) for number in outcome.usage.unknown_calls)
    hint = f" (system calls that do not exist here: {unknown})" if unknown else ""
    return _say(f"the program failed: {GuestFailed(outcome)}{hint}")


def _bench(options: argparse.Namespace) -> int:
    from sandbox.bench import figures, plots  # noqa: PLC0415 -- `run` needs no compiler

    def say(message: str) -> None:
        print(f"sandbox bench: {message}", file=sys.stderr, flush=True)

    folder: Path | None = options.plots
    if folder is not None:
        plots.check()
    effort = figures.QUICK if options.quick else figures.FULL
    found = figures.run(options.engine, options.vms, effort, say, plots=folder is not None, peers=options.peers)
    if folder is not None and found.changing is not None:
        for path in plots.draw(folder, found.throughputs, found.changing):
            say(f"drew {path}")
    print(json.dumps(found.as_json()) if options.json else found.as_text())
    return 0


def _jail(options: argparse.Namespace) -> int:
    """What a real worker of this machine reports, and the table its filter is made of."""
    from sandbox.confinement.seccomp import RULES  # noqa: PLC0415
    from sandbox.monitor import Monitor  # noqa: PLC0415 -- `run` needs no monitor

    async def probed() -> JailReport:
        async with Monitor() as monitor:
            return monitor.jail

    report = asyncio.run(probed())
    if options.json:
        layers = {"active": list(report.active), "missing": {gap.layer: gap.reason for gap in report.missing}}
        calls = [{"name": rule.name, "verdict": rule.verdict.value, "checked": bool(rule.any_of)} for rule in RULES]
        print(json.dumps({**layers, "system_calls": calls}))
        return 0
    for layer in report.active:
        print(f"in force  {layer}")
    for gap in report.missing:
        print(f"missing   {gap.layer}: {gap.reason}")
    print("\nsystem calls left to a worker; every other one kills it:")
    for rule in RULES:
        print(f"  {rule.name:18} {rule.verdict.value:7} {'checked' if rule.any_of else '':8} {rule.reason}")
    return 0


def _log(data: bytes) -> None:
    if data:
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()


def _say(message: str) -> int:
    print(f"sandbox: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
