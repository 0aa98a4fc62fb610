"""Pictures of an evaluation or a comparison: the cost-quality curve, and the reliability of the scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.errors import DependencyError
from serve_app.learning.evaluation import Evaluation

_DPI = 130
_GREY = "#777777"


def plot_evaluation(evaluation: Evaluation, path: Path) -> None:
    """One PNG: quality over the share of strong calls with its baselines, and the reliability diagram.

    Raises DependencyError without matplotlib.
    """
    figure, (left, right) = _new(2)
    _curves(left, {evaluation.router: evaluation}, {evaluation.router: evaluation.at(evaluation.thresholds[0])})
    rows = evaluation.reliability
    score = np.array([row["score"] for row in rows])
    outcome = np.array([row["outcome"] for row in rows])
    error = 1.96 * np.array([row["standard_error"] for row in rows])
    right.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="calibrated")
    right.errorbar(score, outcome, error, marker="o", markersize=4, capsize=2, label="bins of equal mass, 95 %")
    right.set(xlabel="score (predicted strong win rate)", ylabel="observed strong win rate", xlim=(0, 1), ylim=(0, 1))
    right.set_title(f"reliability, error {evaluation.figures['calibration_error'].value:.3f}", fontsize=10)
    right.legend(fontsize=8)
    _save(figure, path)


def plot_comparison(evaluations: Sequence[Evaluation], path: Path) -> None:
    """One PNG: the curves of all routers on the same queries. Raises DependencyError without matplotlib."""
    figure, axes = _new(1)
    _curves(axes, {e.router: e for e in evaluations}, {})
    _save(figure, path)


def _new(panels: int) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError('plots need matplotlib: pip install "jethro[train]"') from None
    figure = Figure(figsize=(5.6 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels)


def _curves(axes: Any, evaluations: Mapping[str, Evaluation], chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Quality over share for each, with random, always-weak, always-strong and the oracle."""
    first = next(iter(evaluations.values()))
    weak, strong = first.curve.weak, first.curve.strong
    axes.plot(first.oracle.share, first.oracle.quality, color=_GREY, linestyle="--", label="oracle")
    for name, evaluation in evaluations.items():
        apgr = evaluation.figures["apgr"].value
        label = f"{name} (APGR {apgr:.3f})" if np.isfinite(apgr) else name
        axes.plot(evaluation.curve.share, evaluation.curve.quality, label=label)
    axes.plot([0, 1], [weak, strong], color=_GREY, linestyle=":", label="random")
    axes.plot([0], [weak], "s", color=_GREY, label="always weak")
    axes.plot([1], [strong], "^", color=_GREY, label="always strong")
    for point in chosen.values():
        axes.plot([point["share"].value], [point["quality"].value], "o", color="black", label="threshold")
    axes.set(xlabel="share of strong calls", ylabel="mean quality", xlim=(-0.02, 1.02))
    axes.set_title(f"{first.queries:,} queries", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
