"""`edgecache generator init` and `build`: source on the author's machine. Nothing here talks to an edge."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Final

import click

from edgecache.cli.errors import CommandFailed
from edgecache.cli.options import FILLED_PATH
from edgecache.cli.symbols import symbols_of
from sandbox.sdk import EXAMPLES, SdkError, compile_c

TEMPLATE: Final = "hello"
_SOURCES: Final = frozenset({".c", ".cc", ".cpp", ".cxx"})
_ADVICE: Final = "name the bundle's directory, or make one with `edgecache generator init NAME`"
_COPIED: Final = frozenset({*_SOURCES, ".h", ".md", ".yaml"})

bundle_argument = click.argument("path", type=FILLED_PATH, required=False)


@click.command()
@click.argument("name")
@click.option("--language", type=click.Choice(["c"]), default="c", show_default=True, help="What it is written in")
def init(name: str, language: str) -> None:
    """Write a bundle that works into the new directory NAME."""
    from edgecache.control.bundle.manifest import NAME, NAME_WORDS  # noqa: PLC0415 (brings YAML: not for --help)

    if re.fullmatch(NAME, name) is None:
        raise click.UsageError(f"{name!r} is not a generator's name: {NAME_WORDS}")
    directory = Path(name)
    try:
        directory.mkdir()
    except FileExistsError as error:
        raise CommandFailed(
            f"{directory} exists already, and is left as it is", advice="choose another name or directory"
        ) from error
    except OSError as error:
        raise CommandFailed(f"cannot make the directory {directory}: {error.strerror}") from error
    try:
        for source in sorted((EXAMPLES / TEMPLATE).iterdir()):
            if source.suffix in _COPIED:
                text = source.read_text(encoding="utf-8")
                (directory / source.name.replace(TEMPLATE, name)).write_text(_renamed(text, name), encoding="utf-8")
        # Hidden files are never pushed.
        (directory / ".gitignore").write_text(f"/{name}\n/{symbols_of(Path(name)).name}\n", encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write into {directory}: {error.strerror}") from error
    click.echo(f"wrote {directory}/: {name}.c ({language.upper()}), generator.yaml, README.md")
    click.echo(f"  next: edgecache generator build {name}", err=True)


@click.command()
@bundle_argument
def build(path: Path | None) -> None:
    """Compile the C and C++ sources in the bundle's directory PATH (default: this one) to its program."""
    from edgecache.cli.packing import program_of  # noqa: PLC0415 (brings YAML: not for --help)

    directory = bundle_directory(path)
    output = directory / program_of(directory)
    build_bundle(directory, output)
    click.echo(output)


def build_bundle(directory: Path, output: Path) -> None:
    """Compile all sources in `directory` itself to `output`, with progress on standard error. Raises CommandFailed."""
    sources = sorted(entry for entry in directory.iterdir() if entry.suffix in _SOURCES)
    if not sources:
        raise CommandFailed(
            f"there is nothing to build in {directory}: no source ends in {', '.join(sorted(_SOURCES))}",
            advice="name the bundle's directory; a program that another tool makes needs no `generator build`",
        )
    try:
        told = functools.partial(print, file=sys.stderr, flush=True)
        compile_c(sources, output, symbols=symbols_of(output), on_progress=lambda line: told(f"  {line}"))
    except SdkError as error:
        raise CommandFailed(str(error)) from error
    except OSError as error:
        raise CommandFailed(f"cannot write {output}: {error.strerror}") from error


def bundle_directory(path: Path | None) -> Path:
    """`path`; without one this directory, or the only bundle in it. Raises CommandFailed."""
    from edgecache.control.bundle.manifest import FILE_NAME  # noqa: PLC0415 (brings YAML: not for --help)

    if path is not None:
        if not path.is_dir():
            what = "is no directory" if path.exists() else "does not exist"
            raise CommandFailed(f"{path} {what}", advice=_ADVICE)
        return path
    here = Path()
    if (here / FILE_NAME).is_file():
        return here
    below = sorted(found.parent for found in here.glob(f"*/{FILE_NAME}"))
    if len(below) == 1:
        return below[0]
    what = f"this directory holds several bundles: {', '.join(map(str, below))}" if below else f"there is no {FILE_NAME} here"
    raise CommandFailed(what, advice=_ADVICE)


def _renamed(text: str, name: str) -> str:
    """The template's name, as a word of its own and in lower case, becomes the generator's."""
    return re.sub(rf"\b{TEMPLATE}\b", name, text)
