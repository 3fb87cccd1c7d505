"""What health checks say of an origin: up or down, by `rise` and `fall`. Pure; `checking` does the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgecache.policy.upstream import HealthRule


@dataclass(frozen=True, slots=True)
class Checked:
    """`against`: checks in a row that said the opposite of `up`. An origin is up until checks say otherwise."""

    up: bool = True
    against: int = 0


UNCHECKED: Final = Checked()


def observed(checked: Checked, good: bool, rule: HealthRule) -> Checked:
    """After one more check."""
    if good == checked.up:
        return Checked(checked.up)
    against = checked.against + 1
    return Checked(good) if against >= (rule.fall if checked.up else rule.rise) else Checked(checked.up, against)


def expected(rule: HealthRule, status: int) -> bool:
    return rule.expect[0] <= status <= rule.expect[1]


def first_delay(rule: HealthRule, chance: float) -> float:
    """Seconds before an origin's first check; `chance` from 0 to 1. Soon, and not all at the same instant."""
    return min(rule.interval, 1.0) * chance


def next_delay(rule: HealthRule, chance: float) -> float:
    """Seconds between two checks: the interval, 10 % more or less."""
    return rule.interval * (0.9 + 0.2 * chance)
