"""0 done, 1 failed, 2 usage, over every command: what was typed wrong is 2; missing or wrong files, and refusals, are 1."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgecache.cli import cli, localrun
from edgecache.cli.options import FILLED
from sandbox.engines import ENGINES
from tests.unit.cli.conftest import PlayedApi, Run

GOOD = "name: g\nprogram: g\nconvention: cgi\nroutes: [/g]\n"


def leaves(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*before, name))
        else:
            yield (*before, name), command


COMMANDS = dict(leaves(cli)) if isinstance(cli, click.Group) else {}
ASKING = {
    ("site", "add"): ("shop", "--host", "shop.test"),
    ("site", "list"): (),
    ("site", "show"): ("shop",),
    ("site", "set"): ("shop", "--weight", "2"),
    ("site", "remove"): ("shop", "--yes"),
    ("cluster", "list"): (),
    ("cluster", "set"): ("gold", "--weight", "2"),
    ("cluster", "remove"): ("gold",),
    ("token", "create"): ("--operator",),
    ("token", "list"): (),
    ("token", "revoke"): ("1",),
    ("purge",): ("--all",),
    ("status",): (),
    ("top",): ("--times", "1"),
    ("generator", "list"): ("--site", "shop"),
    ("generator", "show"): ("hello", "--site", "shop"),
    ("generator", "promote"): ("hello", "1", "--site", "shop"),
    ("generator", "rollback"): ("hello", "--site", "shop"),
    ("generator", "logs"): ("hello", "--site", "shop"),
    ("generator", "remove"): ("hello", "--site", "shop", "--yes"),
    ("generator", "push"): ("bundle", "--site", "shop"),
}
"""Commands that ask an edge, and what is right to say to each."""
LOCAL = {("serve",), ("check",), ("token", "reset"), ("generator", "init"), ("generator", "build"), ("generator", "run")}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "generator.yaml").write_text(GOOD)
    (bundle / "g").write_bytes(b"\x7fELF no more")
    return tmp_path


def test_every_command_is_in_these_tests() -> None:
    assert set(COMMANDS) == set(ASKING) | LOCAL and len(COMMANDS) > 20


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_options_and_arguments_that_cannot_be_are_usage(run: Run, name: tuple[str, ...]) -> None:
    command = COMMANDS[name]
    assert run(*name, "--no-such-option").code == 2
    assert run(*name, *["surplus"] * 9).code == (2 if name != ("purge",) else 1)
    if any(param.required for param in command.params):
        assert run(*name).code == 2
    for param in command.params:
        if isinstance(param.type, click.types._NumberRangeBase | click.Choice) and isinstance(param, click.Option):
            required = ASKING.get(name, ())
            assert run(*name, *required, param.opts[0], "nonsense").code == 2, param.name
            if not isinstance(param.type, click.Choice) and param.type.min is not None:
                assert run(*name, *required, f"{param.opts[0]}={param.type.min - 1}").code == 2, param.name


@pytest.mark.parametrize("name", ASKING, ids=" ".join)
def test_an_empty_name_never_widens_what_is_asked(run: Run, api: PlayedApi, name: tuple[str, ...]) -> None:
    """As from a shell's variable that is not set: `--tag t --site "$SITE"` is not about all sites."""
    for param in COMMANDS[name].params:
        if param.type is FILLED and isinstance(param, click.Option):
            assert run(*name, *ASKING[name], param.opts[0], "", *api.arguments).code == 2, param.name
        elif param.type is FILLED:
            assert run(*name, *("" if word == ASKING[name][0] else word for word in ASKING[name]), *api.arguments).code == 2
    assert api.asked == []


@pytest.mark.parametrize("name", ASKING, ids=" ".join)
def test_bytes_that_are_no_text_are_usage(run: Run, api: PlayedApi, name: tuple[str, ...]) -> None:
    """As Python reads them off the command line: surrogates, which no encoding takes."""
    for param in COMMANDS[name].params:
        if param.type is FILLED and isinstance(param, click.Option):
            assert run(*name, *ASKING[name], param.opts[0], "a\udcff", *api.arguments).code == 2, param.name
        elif param.type is FILLED:
            words = ("a\udcff" if word == ASKING[name][0] else word for word in ASKING[name])
            assert run(*name, *words, *api.arguments).code == 2
    assert api.asked == []


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_an_empty_path_is_not_the_directory_that_one_is_in(run: Run, here: Path, name: tuple[str, ...]) -> None:
    before = sorted(here.rglob("*"))
    for param in COMMANDS[name].params:
        if isinstance(param.type, click.Path):
            said = (param.opts[0], "") if isinstance(param, click.Option) else ("",)
            result = run(*name, *(() if said == ("",) else ASKING.get(name, ())), *said)
            assert result.code == 2 and "it is empty" in result.err, (param.name, result.err)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ASKING, ids=" ".join)
def test_an_edge_that_cannot_be_named_so_is_usage_and_one_that_is_not_there_is_failure(run: Run, name: tuple[str, ...]) -> None:
    asked = (*name, *ASKING[name])
    for url in ("nonsense", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://192.0.2.1:8081"):
        assert run(*asked, "--url", url, "--token", "x").code == 2
    nobody = ("--url", "http://127.0.0.1:9")
    assert run(*asked, *nobody, "--token", "two\nlines").code == 2
    assert run(*asked, *nobody, "--token", "t\u00e4ken").code == 2
    assert run(*asked, *nobody, "--token", "x").code == 1
    assert run(*asked, *nobody).code == 1
    assert run(*asked, *nobody, "--state", "absent").code == 1
    assert run(*asked, *nobody, "--state", "bundle/g").code == 1


@pytest.mark.parametrize("name", ASKING, ids=" ".join)
def test_what_the_api_cannot_read_is_usage_and_what_it_refuses_is_failure(
    run: Run, api: PlayedApi, name: tuple[str, ...]
) -> None:
    wants = {400: 2, 401: 1, 403: 1, 404: 1, 409: 1, 413: 1, 422: 1, 500: 1, 503: 1}
    for status, code in wants.items():
        api.will_answer(status, {"detail": "no", "where": "$.x"})
        result = run(*name, *ASKING[name], *api.arguments)
        assert (result.code, "edgecache: no (x)" in result.err) == (code, True), (status, result.err)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--listen", "nowhere"), "--listen"),
        (("--listen", "127.0.0.1:70000"), "--listen"),
        (("--listen", "*:80"), "--listen"),
        (("--control", "127.0.0.1"), "--control"),
        (("--control", "0.0.0.0:0"), "loopback"),
        (("--listen", "127.0.0.1:7", "--control", "127.0.0.1:7"), "--control"),
        (("--engine", "qemu"), "--engine"),
        (("--processes", "none"), "--processes"),
        (("--processes", "0"), "--processes"),
        (("--processes", "9999999"), "--processes"),
        (("--origin", "ftp://x"), "--origin"),
        (("--origin", "nonsense"), "--origin"),
        (("--listen", "127.0.0.1:7", "--origin", "http://127.0.0.1:7"), "--listen"),
        (("edge.yaml", "--origin", "http://127.0.0.1:1"), "not both"),
    ],
)
def test_serve_with_options_that_cannot_be(run: Run, options: tuple[str, ...], says: str) -> None:
    result = run("serve", *options, "--state", "state")
    assert result.code == 2, result.err
    assert says in result.err
    assert not Path("state").exists()


WRONG = {
    "absent.yaml": None,
    "folder": None,
    "empty-key.yaml": b": 1\n",
    "no.yaml": b"listen: [\n",
    "binary.yaml": bytes(range(256)),
    "unknown.yaml": b"lisen: 127.0.0.1:0\n",
    "address.yaml": b"listen: nowhere\n",
    "engine.yaml": b"sandbox: {engine: qemu}\n",
    "log.yaml": b"log: {access: /absent/folder/log}\n",
    "both.yaml": b"listen: 127.0.0.1:7\ncontrol: {listen: 127.0.0.1:7}\n",
    "deep.yaml": b"[" * 10_000,
}


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize("name", WRONG)
def test_a_configuration_that_is_missing_or_wrong_is_failure(run: Run, here: Path, command: str, name: str) -> None:
    (here / "folder").mkdir()
    content = WRONG[name]
    if content is not None:
        (here / name).write_bytes(content)
    result = run(command, name)
    assert result.code == 1, result.err
    assert name in result.err and "internal error" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--state", "bundle/g"),
        ("--state", "bundle/g/below"),
        ("--state", "state", "--pidfile", "absent/folder/pid"),
        ("--state", "state", "--pidfile", "bundle"),
    ],
)
def test_serve_where_it_cannot_write_is_failure(here: Path, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "edgecache", "serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=here)
    assert done.returncode == 1, done.stderr
    assert "cannot" in done.stderr and "internal error" not in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A directory that only another user than `stranger` may enter, below one that everybody may."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        theirs = Path(folder) / "theirs"
        theirs.mkdir(mode=0o700)
        (theirs / "operator.token").write_text("secret")
        (theirs / "generator.yaml").write_text(GOOD)
        yield theirs


def stranger(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What the command line says to a user who has no rights. Only root can become one."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    command = [sys.executable, "-m", "edgecache"]
    somebody = {"user": 65534, "group": 65534, "extra_groups": []}
    known = subprocess.run([*command, "--version"], capture_output=True, check=False, cwd="/", env=environment, **somebody)  # type: ignore[call-overload]
    if known.returncode != 0:
        pytest.skip("another user may not read the program here")
    return subprocess.run(  # type: ignore[no-any-return, call-overload]
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=cwd, env=environment, **somebody
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--state", "theirs"),
            "may not write the state directory",
        ),
        (
            ("serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--state", "theirs/x"),
            "may not write the state directory",
        ),
        (("serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--state", "new"), "may not write the state directory"),
        (("status", "--state", "theirs"), "theirs/operator.token: Permission denied"),
        (("token", "reset", "--state", "theirs"), "Permission denied"),
        (("check", "theirs/edge.yaml"), "theirs/edge.yaml: cannot be read: Permission denied"),
        (("generator", "build", "theirs"), "theirs/generator.yaml: Permission denied"),
        (("generator", "push", "theirs", "--site", "shop", "--token", "x"), "theirs/generator.yaml: Permission denied"),
        (("generator", "init", "new"), "cannot make the directory new: Permission denied"),
    ],
)
def test_what_this_user_may_not_is_failure_and_no_bug(foreign: Path, arguments: tuple[str, ...], says: str) -> None:
    done = stranger(*arguments, cwd=foreign.parent)
    assert (done.returncode, says in done.stderr) == (1, True), done.stderr
    assert "bug" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_part_of_a_bundle_that_cannot_be_read_is_not_left_out(foreign: Path) -> None:
    bundle = foreign.parent / "bundle"
    bundle.mkdir()
    (bundle / "generator.yaml").write_text(GOOD)
    (bundle / "g").write_bytes(b"ELF")
    foreign.rename(bundle / "pages")
    done = stranger("generator", "push", "bundle", "--site", "shop", "--token", "x", cwd=bundle.parent)
    assert (done.returncode, "pages: Permission denied" in done.stderr) == (1, True), done.stderr
    (bundle / "pages").rename(foreign)


@pytest.mark.parametrize("state", [None, "absent", "bundle", "bundle/g"])
def test_a_reset_where_no_edge_has_been_is_failure_and_makes_nothing(run: Run, here: Path, state: str | None) -> None:
    before = sorted(here.rglob("*"))
    result = run("token", "reset", *(() if state is None else ("--state", state)))
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1), result.err
    assert "state.sqlite" in result.err and "internal error" not in result.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", [("build",), ("run",), ("push", "--site", "shop", "--token", "x")])
@pytest.mark.parametrize("wrong", ["absent", "bundle/g", "folder", "manifest", "program", "out"])
def test_a_bundle_that_is_missing_or_wrong_is_failure(run: Run, here: Path, command: tuple[str, ...], wrong: str) -> None:
    for name in ("folder", "manifest", "program", "out"):
        (here / name).mkdir()
    (here / "manifest" / "generator.yaml").write_text("name: [\n")
    (here / "program" / "generator.yaml").write_text(GOOD)
    (here / "out" / "generator.yaml").write_text(GOOD.replace("program: g", "program: ../g"))
    result = run("generator", command[0], wrong, *command[1:])
    assert result.code == 1, result.err
    assert "internal error" not in result.err


def test_init_takes_no_other_names_and_no_folder_that_is_there(run: Run) -> None:
    assert run("generator", "init", "No Name").code == 2
    assert run("generator", "init", "new", "--language", "cobol").code == 2
    assert run("generator", "init", "bundle").code == 1
    assert run("generator", "init", "new").code == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--engine", "qemu"), 2),
        (("--origin", "https://a.test"), 2),
        (("--origin", "http://a.test:port"), 2),
        (("--request", "message", "--target", "/"), 2),
        (("--target", "nowhere"), 2),
        (("--method", "NO METHOD"), 2),
        (("--header", "no field"), 2),
        (("--request", "absent"), 1),
        (("--request", "bundle"), 1),
        (("--request", "message"), 1),
        ((), 1),
    ],
)
def test_run_tells_what_was_typed_from_what_is_in_files(run: Run, here: Path, options: tuple[str, ...], code: int) -> None:
    (here / "bundle" / "g").write_bytes(Path("/bin/true").read_bytes() if options else b"#!/bin/sh\n")
    (here / "message").write_bytes(b"not a request")
    result = run("generator", "run", "bundle", *options)
    assert (result.code, "internal error" in result.err) == (code, False), result.err
    if "not a request" in result.err:
        assert ("What to do: correct --method" in result.err) is ("--request" not in options)


def test_the_engines_to_choose_from_are_the_sandbox_s() -> None:
    assert localrun.ENGINES == ENGINES


OTHERS = [
    (("origin_sim", "--port", "many"), 2),
    (("origin_sim", "--nonsense"), 2),
    (("origin_sim", "--port", "0", "--host", "192.0.2.1"), 1),
    (("sandbox",), 2),
    (("sandbox", "run"), 2),
    (("sandbox", "run", "absent"), 1),
    (("sandbox", "run", "."), 1),
    (("sandbox", "run", "bundle/g"), 1),
    (("sandbox", "run", "bundle/g", "--engine", "qemu"), 2),
    (("sandbox", "run", "bundle/g", "--memory", "3"), 2),
    (("sandbox", "run", "bundle/g", "--cpu-ms", "0"), 2),
    (("sandbox", "run", "bundle/g", "--request", "absent"), 1),
    (("sandbox", "bench", "--vms", "none"), 2),
    (("sandbox", "jail", "--nonsense"), 2),
    (("demo", "--nonsense"), 2),
    (("loadtests", "--nonsense"), 2),
]


@pytest.mark.parametrize(("arguments", "code"), OTHERS, ids=[" ".join(arguments) for arguments, _ in OTHERS])
def test_the_other_programs_keep_to_it(here: Path, arguments: tuple[str, ...], code: int) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=here, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
