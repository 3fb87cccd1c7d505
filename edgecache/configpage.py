"""The operator's own error page: a file that the configuration names, read and checked. `config`'s tables call it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgecache.policy.errorpage import PLACES, unknown_places
from edgecache.yamlform import Node

MAX_BYTES: Final = 64 << 10


def read_error_page(node: Node) -> str:
    """The text of the file, which is relative to the configuration's. Raises FormError."""
    path = Path(node.source).parent / node.text()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise node.error(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise node.error(f"{path} is longer than {MAX_BYTES >> 10}KiB; link to pictures and styles in place of holding them")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise node.error(f"{path} is not UTF-8 text") from error
    if unknown := unknown_places(text):
        known = ", ".join(f"{{{{{place}}}}}" for place in PLACES)
        raise node.error(f"{path} holds {{{{{unknown[0]}}}}}, which nothing fills; there are {known}")
    if not text.strip():
        raise node.error(f"{path} is empty")
    return text
