"""Sizes and times as people read them. Pure."""

from __future__ import annotations


def size(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """Its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    named = [(days, "d"), (hours, "h"), (minutes, "m"), (whole % 60, "s")]
    shown = [f"{number} {unit}" for number, unit in named if number]
    return " ".join(shown[:2]) or "0 s"
