"""What a soak must not show, and that each of it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.soak import Verdict

GOOD = Verdict(
    total=1000,
    wrong=0,
    failed=20,
    descriptors_before=22,
    descriptors_after=21,
    rss_early_kib=100_000,
    rss_late_kib=104_900,
    disturbances=10,
    refused=(),
)


def test_failures_for_the_origins_faults_are_none_of_the_edges() -> None:
    assert GOOD.broken() == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (replace(GOOD, wrong=1), "1 wrong bodies of 1000 answers"),
        (replace(GOOD, total=0), "0 wrong bodies of 0 answers"),
        (replace(GOOD, descriptors_after=24), "2 descriptors leaked"),
        (replace(GOOD, rss_late_kib=105_100), "memory grew by 5.1%, more than 5%"),
        (replace(GOOD, refused=("no",)), "refused: no"),
    ],
)
def test_what_must_not_be_is_told(bad: Verdict, told: str) -> None:
    assert bad.broken() == [told]
