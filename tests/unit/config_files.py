"""Configuration files for tests, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecache.config import load
from edgecache.yamlform import FormError


def written(directory: Path, text: str) -> Path:
    """A configuration file of this text."""
    path = directory / "edge.yaml"
    path.write_text(text)
    return path


def problems(directory: Path, text: str) -> list[str]:
    """What is wrong with such a file, each with its place, without the file's path."""
    path = written(directory, text)
    with pytest.raises(FormError) as caught:
        load(path)
    return [line.removeprefix(str(path)) for line in str(caught.value).splitlines()]
