"""What a path means, whichever way it is written (RFC 3986 section 6.2.2). Pure.

Only for finding out whose a request is: paths are passed on, and are keys, as they came. Called by `sites`.
"""

from __future__ import annotations

import re
from typing import Final

_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_SLASHES: Final = re.compile(r"//+")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normal(path: str) -> str:
    """`path` without dot segments, repeated slashes and needless percent-encoding, as many origins read it.

    What is encoded for a reason (`%2F`) stays so, in capitals. A `%` that encodes nothing is one itself: what is decoded behind
    it must not make it look like another encoding.
    """
    if "%" not in path and "//" not in path and "/." not in path:
        return path
    path = _SLASHES.sub("/", _ENCODED.sub(_decoded, path))
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _decoded(match: re.Match[str]) -> str:
    if match[1] is None:
        return "%25"
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()
