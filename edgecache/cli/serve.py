"""`edgecache serve` and `edgecache check`: the configuration is read here, `edgecache.lifetime` does the rest."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecache.cli.errors import CommandFailed, WrongUse, from_form
from edgecache.cli.options import FILLED_PATH

if TYPE_CHECKING:
    from edgecache.config import Config


@click.command()
@click.argument("config", required=False, type=FILLED_PATH)
@click.option("--listen", metavar="HOST:PORT", help="Where pages are served  [default: 127.0.0.1:8080]")
@click.option("--control", metavar="HOST:PORT", help="Where the control API listens  [default: 127.0.0.1:8081]")
@click.option("--origin", metavar="URL", help="No CONFIG: a cache in front of this origin, for any host name")
@click.option("--engine", metavar="auto|unicorn|kvm", help="What executes guests' instructions  [default: auto]")
@click.option("--processes", metavar="auto|N", help="How many processes serve  [default: 1; auto: one a core]")
@click.option("--state", metavar="DIR", type=FILLED_PATH, help="Where state is kept  [default: .edgecache]")
@click.option("--pidfile", metavar="FILE", type=FILLED_PATH, help="Where the id of the leading process is written")
def serve(
    *,
    config: Path | None,
    listen: str | None,
    control: str | None,
    origin: str | None,
    engine: str | None,
    processes: str | None,
    state: Path | None,
    pidfile: Path | None,
) -> int:
    """Run an edge until Ctrl-C or SIGTERM. Without CONFIG and --origin: with the sites that its state holds."""
    from edgecache.config import from_origin  # noqa: PLC0415 (slow to import: `edgecache --help` must not wait)

    if config is not None and origin is not None:
        raise click.UsageError("give CONFIG or --origin, not both; in a file, origins belong to its sites")

    def with_options(read: Config) -> Config:
        return read.overridden(listen=listen, control=control, engine=engine, state=state, processes=processes)

    def read() -> Config:
        return with_options(_load(config) if config is not None else _without_sites())

    with from_form():
        written = _load(config) if config is not None else _without_sites()
    with from_form("the edge cannot be run so", WrongUse):
        settings = with_options(written if origin is None else from_origin(origin))
    _check_directory(settings.state_dir)
    if pidfile is not None:
        _check_pidfile(pidfile)
    return _run(settings, read if config is not None else None, pidfile)


@click.command()
@click.argument("config", type=FILLED_PATH)
def check(config: Path) -> None:
    """Check the configuration file CONFIG, and name every mistake in it."""
    with from_form():
        settings = _load(config)
    sites = ", ".join(site.name for site in settings.sites) or "none"
    address = f"{settings.control.host}:{settings.control.port}"
    click.echo(f"{config}: good: listens on {settings.listen}, control on {address}; sites: {sites}")
    if not settings.sites:
        click.echo("  nothing is served until a site is declared under `sites`, or added with `edgecache site add`", err=True)


def _check_directory(state: Path) -> None:
    """State that fails while an edge runs, or that a disk has lost, does not keep it from serving; a wrong path does.

    Raises CommandFailed.
    """
    try:
        wrong = not stat.S_ISDIR(state.stat().st_mode)
    except NotADirectoryError:
        wrong = True
    except OSError:
        wrong = False
    if wrong:
        raise CommandFailed(f"the edge cannot start: {state} is no directory", advice="name one with --state or `state:`")
    if not _is_ours(state):
        advice = "make its owner the user that runs the edge, or name another one with --state or `state:`"
        raise CommandFailed(f"the edge cannot start: this user may not write the state directory {state}", advice=advice)


def _is_ours(state: Path) -> bool:
    """Whether permissions let this user write it, or make it. A disk that has become read-only is no matter of permissions."""
    there = next((path for path in (state.absolute(), *state.absolute().parents) if os.path.lexists(path)), Path("/"))
    return os.access(there, os.W_OK | os.X_OK) or bool(os.statvfs(there).f_flag & os.ST_RDONLY)


def _check_pidfile(pidfile: Path) -> None:
    """Before anything runs. Raises CommandFailed."""
    try:
        if pidfile.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        trial = pidfile.with_name(f"{pidfile.name}.{os.getpid()}")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise CommandFailed(
            f"the file {pidfile} cannot be written: {error.strerror}",
            advice="name one with --pidfile in a directory that is there and yours",
        ) from error


def _load(path: Path) -> Config:
    from edgecache.config import load  # noqa: PLC0415 (as above)

    return load(path)


def _without_sites() -> Config:
    from edgecache.config import Config  # noqa: PLC0415 (as above)

    return Config()


def _run(settings: Config, read: Callable[[], Config] | None, pidfile: Path | None) -> int:
    from edgecache.control.listening.binding import BindRefused  # noqa: PLC0415 (as above)
    from edgecache.control.state import StateError  # noqa: PLC0415
    from edgecache.lifetime import run  # noqa: PLC0415
    from edgecache.processes.entry import run_loop  # noqa: PLC0415
    from edgecache.processes.serving_process import StartFailed  # noqa: PLC0415
    from edgecache.processes.takeover import TakeoverFailed  # noqa: PLC0415
    from edgecache.serve.accepting.certificates import CertificateError  # noqa: PLC0415
    from sandbox import SandboxError  # noqa: PLC0415

    try:
        return run_loop(run(settings, read, pidfile))
    except KeyboardInterrupt:
        return 0
    except BindRefused as error:
        raise CommandFailed(str(error)) from error
    except CertificateError as error:
        raise CommandFailed(str(error), advice="see `tls:` in the configuration") from error
    except StateError as error:
        raise CommandFailed(f"the edge cannot start: {error}") from error
    except (StartFailed, TakeoverFailed) as error:
        raise CommandFailed(f"the edge cannot start: {error}") from error
    except SandboxError as error:
        advice = "see `sandbox:` in the configuration (engine, require_jail), and --engine"
        raise CommandFailed(f"the sandbox cannot start: {error}", advice=advice) from error
    except OSError as error:
        advice = "choose another address (--listen, --control) or directory (--state, `cache.disk.path`), or free what is taken"
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            advice = "raise the limit of open files (LimitNOFILE= of systemd, ulimit -n)"
        what = ": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error)
        raise CommandFailed(f"the edge cannot start: {what}", advice=advice) from error
