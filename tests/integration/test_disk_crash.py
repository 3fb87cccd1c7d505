"""Edges that are killed under load serve no corrupt, cut or purged body afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.crash import trial


@pytest.mark.timeout(300)
async def test_ten_kills_under_load(tmp_path: Path) -> None:
    verdict = await trial(tmp_path, kills=10, seed=7)
    assert verdict.broken() == []
    assert verdict.kills == 10 and verdict.answers > 100 and verdict.purges > 0 and verdict.first_hits > 0


@pytest.mark.timeout(300)
async def test_two_edges_share_a_tier_while_one_of_them_is_killed(tmp_path: Path) -> None:
    verdict = await trial(tmp_path, kills=4, seed=8, edges=2, capacity="16MiB")
    assert verdict.broken() == []
    assert verdict.answers > 100 and verdict.first_hits > 0
