"""Shares as the benchmark reports them: the arithmetic, and that a short run through real workers divides CPU time at all."""

from __future__ import annotations

from sandbox.fairness import GENERATORS, divide, measure_fairness

MS = 1_000_000


def test_what_is_promised_is_a_part_of_what_was_given_out() -> None:
    exact = divide((100 * MS, 300 * MS), (1, 3), 5 * MS, 1.0)
    assert (exact.error, exact.worst_ms, exact.beyond, exact.cpu_seconds) == (0.0, 0.0, 0, 0.4)


def test_one_slice_or_one_percent_is_forgiven_whichever_is_larger() -> None:
    assert divide((104 * MS, 296 * MS), (1, 3), 5 * MS, 1.0).beyond == 0
    assert divide((110 * MS, 290 * MS), (1, 3), 5 * MS, 1.0).beyond == 2
    assert divide((10_090 * MS, 9_910 * MS), (1, 1), 5 * MS, 1.0).beyond == 0
    assert divide((110 * MS, 290 * MS), (1, 3), 5 * MS, 1.0).error == 0.05


def test_nothing_given_out_is_no_fairness() -> None:
    assert divide((0, 0), (1, 1), 5 * MS, 1.0).error == 1.0


def test_fifty_loops_in_jailed_workers_are_divided_by_weight_and_follow_a_live_change() -> None:
    figures = measure_fairness("unicorn", seconds=1.0, calls=5)
    assert figures.steady.cpu_seconds > 0
    assert figures.steady.error < 0.5
    last = figures.samples[-1].cpu_ns
    before = next(sample for sample in reversed(figures.samples) if sample.seconds < figures.changed_at).cpu_ns
    first = figures.samples[0].cpu_ns
    half = GENERATORS // 2
    assert sum(before[half:]) - sum(first[half:]) > sum(before[:half]) - sum(first[:half])
    assert sum(last[:half]) - sum(before[:half]) > sum(last[half:]) - sum(before[half:])
    assert figures.neighbour_beside_p99_ms > 0
