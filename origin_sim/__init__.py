"""A programmable origin: a small shop with deterministic pages, and knobs that make it slow, flaky, huge or broken.

`catalogue`, `pages` and `proof` are pure; `faults` holds the knobs; `server` does the I/O. Run it with `python -m origin_sim`.
"""

from __future__ import annotations
