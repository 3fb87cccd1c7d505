"""The benchmark's two pictures, as PNG files. Needs matplotlib: the `bench` extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sandbox.bench.fairness import Shares
from sandbox.errors import SandboxError

_INCHES: Final = (8, 4.5)
_DPI: Final = 120


class PlotUnavailable(SandboxError):
    """There is nothing to draw with."""


def check() -> None:
    """Raises PlotUnavailable before anything has been measured in vain."""
    try:
        import matplotlib  # noqa: F401, PLC0415 -- an extra
    except ImportError as error:
        raise PlotUnavailable("--plots needs matplotlib: pip install 'edgecache[bench]'") from error


def draw(folder: Path, throughputs: Mapping[int, float], shares: Shares) -> tuple[Path, ...]:
    """Write `throughput.png` and `shares.png` into the folder, which is made if missing. Raises PlotUnavailable, OSError."""
    check()
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra

    folder.mkdir(parents=True, exist_ok=True)
    crowd = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = crowd.add_subplot(
        title="Throughput against the number of generators, called by Zipf's law", xlabel="generators", ylabel="answers a second"
    )
    axes.set_xscale("log")
    axes.plot(list(throughputs), list(throughputs.values()), marker="o")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)

    over_time = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    axes = over_time.add_subplot(
        title="CPU received, of generators that take all they get",
        xlabel="seconds",
        ylabel="share of the CPU time in the last second",
    )
    for position, weight in enumerate(shares.weights):
        axes.plot(*_recent(shares, position), label=_label(shares, position, weight))
    if shares.changed_s is not None:
        axes.axvline(shares.changed_s, linestyle="--", color="grey")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    paths = folder / "throughput.png", folder / "shares.png"
    crowd.savefig(paths[0])
    over_time.savefig(paths[1])
    return paths


def _label(shares: Shares, position: int, weight: int) -> str:
    before = shares.first_weights[position]
    return f"weight {weight}" if before == weight else f"weight {before}, then {weight}"


def _recent(shares: Shares, position: int, window_s: float = 1.0) -> tuple[list[float], list[float]]:
    """Times, and the part that one generator got of what was given out in the `window_s` before."""
    times, parts = [], []
    oldest = 0
    for at, received in shares.samples:
        while shares.samples[oldest][0] < at - window_s:
            oldest += 1
        then = shares.samples[oldest][1]
        given = sum(received) - sum(then)
        if at >= window_s and given:
            times.append(at)
            parts.append((received[position] - then[position]) / given)
    return times, parts
