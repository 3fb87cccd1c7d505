"""Programs of equal bytes share them, for as long as somebody holds them."""

from __future__ import annotations

import pytest

from sandbox.dispatch.images import Images
from sandbox.program import Convention, Program


def program(content: bytes = b"file") -> Program:
    return Program(bytes(bytearray(b"image")), Convention.CGI, files=(("a", bytes(bytearray(content))),))


def test_equal_bytes_are_kept_once() -> None:
    images = Images()
    first, second = program(), program()
    assert first.image is not second.image
    shared, again = images.share(first), images.share(second)
    assert shared == again == first
    assert again.image is shared.image is first.image
    assert again.files[0][1] is first.files[0][1]


def test_what_nobody_holds_is_let_go() -> None:
    images = Images()
    first, second = images.share(program()), images.share(program(b"other"))
    assert len(images) == 3
    images.release(first)
    assert len(images) == 2
    images.release(second)
    assert len(images) == 0
    with pytest.raises(KeyError):
        images.release(second)
