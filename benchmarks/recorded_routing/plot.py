"""The picture: mean quality over the share of strong calls, one panel for each task."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.recorded_routing.crossed import BASELINE, Crossed
from benchmarks.recorded_routing.sets import Task
from serve_app import plots
from serve_app.learning.metrics import average_pgr, cost_quality_curve, oracle_curve

_MOST = 5
"""Routers in one panel, the best ones; the table has them all."""


def draw(tasks: Mapping[str, Task], scores: Mapping[str, Mapping[str, Crossed]], caption: str, path: Path) -> None:
    """Write a PNG: the curves of the best routers and the baseline, random, and the oracle."""
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, panels = plots.new_figure(columns, 6.2, 4.4, rows=rows, squeeze=False)
    grid = panels.ravel()
    for axes, (title, task) in zip(grid, tasks.items(), strict=False):
        weak, strong = task.dataset.weak.quality.mean(1), task.dataset.strong.quality.mean(1)
        curves = {kind: cost_quality_curve(one.scores, weak, strong) for kind, one in scores[title].items()}
        apgr = {kind: average_pgr(curve) for kind, curve in curves.items()}
        best = sorted((k for k in curves if k not in ("random", BASELINE)), key=lambda k: -apgr[k])[:_MOST]
        for kind in best:
            axes.plot(100 * curves[kind].share, curves[kind].quality, linewidth=1.3, label=f"{kind} {apgr[kind]:.3f}")
        if BASELINE in curves:
            curve = curves[BASELINE]
            label = f"{BASELINE} {apgr[BASELINE]:.3f}"
            axes.plot(100 * curve.share, curve.quality, color="black", linewidth=1, linestyle="-.", label=label)
        oracle = oracle_curve(weak, strong)
        axes.plot(100 * oracle.share, oracle.quality, ":", color=plots.GREY, label="oracle")
        axes.plot([0, 100], [weak.mean(), strong.mean()], "--", color="#c46a1a", label="random, expected")
        axes.set_ylim(weak.mean() - 0.12 * np.ptp(oracle.quality), oracle.quality.max() + 0.04 * np.ptp(oracle.quality))
        axes.set(xlabel="strong calls, % of queries", ylabel="mean quality")
        axes.set_title(f"{title}: {len(task.dataset):,} queries", fontsize=10)
        axes.legend(fontsize=8, frameon=False, loc="lower right", title="APGR", title_fontsize=8)
    for axes in grid[len(tasks) :]:
        axes.set_axis_off()
    plots.caption(figure, caption)
    plots.save(figure, path)
