"""Request IDs: unique over restarts and machines, cheap, and not a secret. Made here alone, whatever clients send."""

from __future__ import annotations

import itertools
import secrets

_PREFIX = secrets.token_hex(6)
_count = itertools.count(1)


def next_request_id() -> str:
    return f"{_PREFIX}-{next(_count):x}"
