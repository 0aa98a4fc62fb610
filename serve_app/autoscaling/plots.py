"""Pictures of a comparison: replicas and queue over time, and what hours buy under each rule."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_app.autoscaling.comparison import DEFAULT, OURS, QUEUE, Comparison
from serve_app.errors import DependencyError

_COLOURS = {OURS: "#1f77b4", DEFAULT: "#d62728", QUEUE: "#2ca02c", "oracle": "#777777"}


def plot(found: Sequence[Comparison], path: Path) -> None:
    """One PNG, a row for each trace: large replicas, calls that wait, frontier. Raises DependencyError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError('plots need matplotlib: pip install "jethro[train]"') from None
    figure = Figure(figsize=(15, 2.7 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(found), 3, squeeze=False)
    for row, comparison in zip(axes, found, strict=True):
        _over_time(row[0], row[1], comparison)
        _frontier(row[2], comparison)
    axes[0][0].legend(fontsize=7)
    axes[0][2].legend(fontsize=7)
    figure.savefig(path, dpi=90)


def _over_time(replicas: Any, queue: Any, comparison: Comparison) -> None:
    for name, outcome in comparison.runs.items():
        line, minutes = outcome.timeline, outcome.timeline.at_s / 60
        replicas.step(minutes, line.target["large"], where="post", color=_COLOURS[name], linewidth=0.9, label=name)
        queue.plot(minutes, line.queued["large"], color=_COLOURS[name], linewidth=0.9)
    replicas.set(title=comparison.trace, xlabel="minutes", ylabel="large replicas wanted")
    queue.set(xlabel="minutes", ylabel="strong calls that wait")


def _frontier(axes: Any, comparison: Comparison) -> None:
    swept = sorted(comparison.frontier.values(), key=lambda f: f.large_hours)
    held = sorted(comparison.holds.values(), key=lambda f: f.large_hours)
    for points, name, label in ((swept, DEFAULT, "default by target"), (held, OURS, "ours by hold")):
        hours, p95 = [f.large_hours for f in points], [f.strong_p95_s for f in points]
        axes.plot(hours, p95, "o-", color=_COLOURS[name], markersize=3, linewidth=0.8, label=label)
    for name, figures in comparison.rules.items():
        axes.plot(figures.large_hours, figures.strong_p95_s, "*", color=_COLOURS[name], markersize=9)
    axes.set(xlabel="large replica-hours", ylabel="strong TTFT p95, s", yscale="log")
