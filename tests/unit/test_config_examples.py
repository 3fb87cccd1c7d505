"""The examples in configs/ can be loaded, and explain every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgecache import config, configwords
from edgecache.config import load
from edgecache.control import words
from edgecache.control.upstreamwords import SECTIONS

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_can_be_loaded(name: str) -> None:
    assert load(CONFIGS / name).sites


def test_the_production_example_explains_every_key() -> None:
    lines = (CONFIGS / "production.yaml").read_text().splitlines()
    tables = [value for name, value in vars(configwords).items() if name.isupper() and isinstance(value, dict)]
    known = {key for table in tables for key in table} | set(config._SECTIONS)
    known |= {
        "access",
        "tls",
        "certificate",
        "name",
        "hosts",
        "origins",
        "weight",
        "limits",
        *words.LIMIT_WORDS,
        *words.CACHE_WORDS,
    }
    for key in sorted(known):
        assert any(
            re.match(rf"[ #-]*{key}: .*#|[ #-]*{key}:( *|.*  )#", line) or line.strip(" #-") == f"{key}:" for line in lines
        ), key


def test_the_upstreams_example_explains_every_key() -> None:
    text = (CONFIGS / "upstreams.yaml").read_text()
    keys = {"weight", "backup", "proxy_protocol", "balance", *SECTIONS}
    keys |= {key for section in SECTIONS.values() for key in section.words}
    for key in sorted(keys):
        assert re.search(rf"(^|[ {{#]){key}: ?", text, re.MULTILINE), key
