"""The picture: quality against strong calls, and times to first token as distributions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cascade_serving.figures import Run
from serve_app import plots


def draw(runs: Mapping[str, Run], found: Mapping[str, Any], caption: str, path: Path) -> None:
    """Write a PNG; the first run's quality, and every run's streaming cascade against the pools alone."""
    figure, (left, right) = plots.new_figure(2, 5.5, 4.4)
    first, run = next(iter(runs.items()))
    weak, strong = found[first][run.weak], found[first][run.strong]
    left.plot(
        [0, 100], [100 * weak["quality"], 100 * strong["quality"]], "--", color="#bbbbbb", label="random, expected"
    )
    for number, name in enumerate(run.replies):
        point = found[first][name]
        low, high = point["quality_drop_interval_95"]
        best = strong["quality"]
        bars = [[100 * best * (high - point["quality_drop"])], [100 * best * (point["quality_drop"] - low)]]
        at = (100 * point["strong_calls"], 100 * point["quality"])
        left.errorbar(*at, yerr=np.maximum(bars, 0), color=plots.color(number), capsize=3)
        plots.mark(left, number, at, name)
    left.set_xlabel("queries with a strong call, %")
    left.set_ylabel("exact answers, %")
    left.legend(fontsize=8, frameon=False, loc="lower right")
    _times(right, runs)
    plots.caption(figure, caption)
    plots.save(figure, path)


def _times(axes: Any, runs: Mapping[str, Run]) -> None:
    lines: dict[str, list[float]] = {}
    for title, run in runs.items():
        if not lines:
            lines["weak alone"] = [r.first_ms for r in run.replies[run.weak]]
            lines["strong alone"] = [r.first_ms for r in run.replies[run.strong]]
        for name in run.cascades:
            if name.endswith("-stream"):
                replies = run.replies[name]
                lines[f"accepted, {title}"] = [r.first_ms for r in replies if r.pool != "large"]
                lines[f"escalated, {title}"] = [r.first_ms for r in replies if r.pool == "large"]
    for (label, values), colour in zip(lines.items(), ("#999999", "#333333", *plots.COLORS), strict=False):
        if values:
            axes.plot(np.sort(values), np.linspace(0, 100, len(values)), label=label, color=colour)
    axes.set_xscale("log")
    axes.set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_xlabel("time to first token, ms")
    axes.set_ylabel("streams that have begun, %")
    axes.legend(fontsize=8, frameon=False)
