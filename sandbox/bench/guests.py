"""The benchmark's guests, and the request that they get."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from sandbox.program import Convention, Program
from sandbox.request import GuestRequest
from sandbox.sdk.build import compile_c

REQUEST: Final = GuestRequest(
    (
        (b"REQUEST_METHOD", b"GET"),
        (b"SCRIPT_NAME", b""),
        (b"PATH_INFO", b"/bench"),
        (b"QUERY_STRING", b""),
        (b"SERVER_PROTOCOL", b"HTTP/1.1"),
        (b"HTTP_HOST", b"bench.test"),
        (b"HTTP_ACCEPT", b"text/html"),
    )
)


def build(name: str, convention: Convention = Convention.RESIDENT) -> Program:
    """`page` makes a page of about 600 bytes, `page_cgi` too, `burner` never ends. Raises SdkError where there is no compiler."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / name
        compile_c([Path(__file__).with_name(f"{name}.c")], output)
        return Program(output.read_bytes(), convention, name)
