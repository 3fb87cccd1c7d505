"""edge.h's reading of requests, in a native program: what the sandbox frames, it must take apart; what is broken, refuse."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox.request import GuestRequest, scgi_frame
from sandbox.sdk import compile_c

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("probe") / "probe"
    compile_c([Path(__file__).parent / "probe.c"], output)
    return output


def ask(probe: Path, frame: bytes, *names: str) -> list[str]:
    done = subprocess.run([probe, *names], input=frame, capture_output=True, check=True, timeout=20)
    return done.stdout.decode("utf-8", "replace").splitlines()


def frame(body: bytes = b"", **variables: str) -> bytes:
    return scgi_frame(GuestRequest(tuple((name.encode(), value.encode()) for name, value in variables.items()), body))


def test_a_request_is_taken_apart(probe: Path) -> None:
    data = frame(
        b"a=1", REQUEST_METHOD="POST", PATH_INFO="/é", QUERY_STRING="x=1", HTTP_ACCEPT_LANGUAGE="de", CONTENT_TYPE="text/x"
    )
    lines = ask(probe, data, "Accept-Language", "accept_language", "Content-Type", "Absent")
    assert lines[:4] == ["method=POST", "path=/é", "query=x=1", "body=3:a=1"]
    assert "header Accept-Language=de" in lines
    assert "header accept_language=de" in lines
    assert "header Content-Type=text/x" in lines
    assert "header Absent=" in lines


def test_a_request_without_variables_has_empty_parts(probe: Path) -> None:
    assert ask(probe, frame())[:4] == ["method=", "path=", "query=", "body=0:"]


@pytest.mark.parametrize(
    ("query", "name", "expected"),
    [
        ("name=Ada", "name", "3:Ada"),
        ("a=1&name=Ada+L%C3%A9&b", "name", "7:Ada Lé"),
        ("name", "name", "0:"),
        ("name=", "name", "0:"),
        ("names=x", "name", "-1:"),
        ("", "name", "-1:"),
        ("name=%4", "name", "2:%4"),
        ("name=%zz", "name", "3:%zz"),
        ("n%61me=y", "name", "1:y"),
        ("name=" + "x" * 40, "name", "40:" + "x" * 15),
        ("&&=&name=z", "name", "1:z"),
        ("name=a=b", "name", "3:a=b"),
    ],
)
def test_a_parameter_is_decoded_and_cut_to_its_buffer(probe: Path, query: str, name: str, expected: str) -> None:
    assert f"param {name}={expected}" in ask(probe, frame(QUERY_STRING=query), name)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("ms=5", 5), ("ms=101", -1), ("ms=-1", -1), ("ms=5x", -1), ("ms=", -1), ("", -1), ("ms=" + "9" * 40, -1)],
)
def test_a_number_outside_its_range_is_none(probe: Path, query: str, expected: int) -> None:
    assert f"ms={expected}" in ask(probe, frame(QUERY_STRING=query))


@pytest.mark.parametrize(
    "data", [b"", b"x", b":", b"0:,", b"5:a\0b\0,", b"999:a\0b\0,", b"4:a\0b\0", b"4:a\0b\0;", b"18446744073709551615:a\0,"]
)
def test_a_broken_frame_is_refused(probe: Path, data: bytes) -> None:
    assert ask(probe, data) == ["refused"]
