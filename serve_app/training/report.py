"""Evaluations and comparisons of routers as Markdown, JSON and plots, each figure with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.data.dataset import Dataset
from serve_app.errors import needs_extra
from serve_app.learning.metrics import Interval
from serve_app.training.comparison import BASELINE, ComparedRouter, ComparisonPlan, difference, recommend
from serve_app.training.evaluation import ADVANTAGES, Evaluation, interval_json

_PLAIN = {
    "apgr": "APGR",
    "cpt50": "CPT(50), share of strong calls",
    "cpt80": "CPT(80), share of strong calls",
    "auc": "AUC of 'the strong model is better'",
    "calibration_error": "calibration error",
    "weak_quality": "quality, always weak",
    "strong_quality": "quality, always strong",
}


def evaluation_markdown(evaluation: Evaluation) -> str:
    """The report of one router, with the figures of the random router and of the oracle where they have one."""
    rows = [[name, _with_interval(evaluation.figures[key]), *_bounds(evaluation, key)] for key, name in _PLAIN.items()]
    rows += [
        [
            f"quality drop at {advantage:.0%} cost advantage",
            _with_interval(evaluation.figures[f"drop_at_{advantage:.0%}"], percent=True),
            *_drops(evaluation, advantage),
        ]
        for advantage in ADVANTAGES
    ]
    parts = [
        f"# {evaluation.router} ({evaluation.version})",
        f"{evaluation.queries:,} queries; in brackets 95 % bootstrap intervals.",
        markdown_table(["figure", "router", "random", "oracle"], rows),
        _thresholds(evaluation),
        "Cost advantage is the share of queries that the weak model answers; drop is (strong - router) / |strong|. "
        f"APGR over RouteLLM's score deciles: {_plain(evaluation.routellm_apgr)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns of even width."""
    table = [list(head), *map(list, rows)]
    width = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:]])


def _thresholds(evaluation: Evaluation) -> str:
    if not evaluation.thresholds:
        return ""
    rows = []
    for threshold in evaluation.thresholds:
        at = evaluation.at(threshold)
        costs = [
            f"{at['cost_usd'].value:.3g}" if at["cost_usd"].value else "-",
            _with_interval(at["cost_share"], percent=True),
        ]
        share, drop = (_with_interval(at[name], percent=True) for name in ("share", "drop"))
        rows.append([f"{threshold:.6g}", share, _with_interval(at["quality"]), drop, _with_interval(at["pgr"]), *costs])
    head = ["threshold", "strong calls", "quality", "drop", "PGR", "USD a query", "cost of always strong"]
    return markdown_table(head, rows)


def _bounds(evaluation: Evaluation, key: str) -> list[str]:
    """The same figure of the random router (in expectation) and of the oracle."""
    random = {"apgr": "0.500", "cpt50": "0.500", "cpt80": "0.800", "auc": "0.500"}.get(key, "")
    oracle = _plain(evaluation.oracle_apgr) if key == "apgr" else ""
    return [random if evaluation.curve.weak != evaluation.curve.strong else "", oracle]


def _drops(evaluation: Evaluation, advantage: float) -> list[str]:
    strong, weak = evaluation.curve.strong, evaluation.curve.weak
    size = abs(strong) or 1.0
    oracle = evaluation.oracle.quality_at(1 - advantage)
    return [f"{100 * advantage * (strong - weak) / size:.2f} %", f"{100 * (strong - oracle) / size:.2f} %"]


def _with_interval(value: Interval, percent: bool = False) -> str:
    if not np.isfinite(value.value):
        return "-"
    if percent:
        return f"{100 * value.value:.2f} % [{100 * value.low:.2f}, {100 * value.high:.2f}]"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _plain(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def comparison_markdown(candidates: Sequence[ComparedRouter], refused: Mapping[str, str], plan: ComparisonPlan) -> str:
    """The report of a comparison."""
    rows = [_row(c) for c in candidates]
    head = ["router", "APGR", "CPT(50)", "CPT(80)", "AUC", "drop at 20% advantage", f"strong calls at {plan.target}"]
    head += ["drop there", "runs", "ms a decision", "fit s"]
    first = candidates[0].evaluation
    parts = [
        "# Routers compared",
        f"{first.queries:,} queries in {plan.folds} folds, each scored by a router fitted on the other folds; always "
        f"weak {first.curve.weak:.4f}, always strong {first.curve.strong:.4f}, APGR of the oracle "
        f"{first.oracle_apgr:.3f}. In brackets 95 % bootstrap intervals.",
        markdown_table(head, rows),
        *(f"{kind} could not take part: {reason}" for kind, reason in refused.items()),
        f"Recommended: {recommend(candidates).reason}.",
    ]
    return "\n\n".join(parts) + "\n"


def comparison_json(
    candidates: Sequence[ComparedRouter], refused: Mapping[str, str], plan: ComparisonPlan, dataset: Dataset
) -> dict[str, Any]:
    """JSON-ready, with the curves."""
    found = recommend(candidates)
    return {
        "data": {"digest": dataset.digest(), "queries": len(dataset), **dataset.about},
        "models": {"weak": dataset.weak.model, "strong": dataset.strong.model},
        "folds": plan.folds,
        "seed": plan.seed,
        "target": str(plan.target),
        "params": {kind: dict(params) for kind, params in plan.params.items()},
        "recommended": found.kind,
        "reason": found.reason,
        "refused": dict(refused),
        "routers": [_json(c, candidates) for c in candidates],
    }


def _json(candidate: ComparedRouter, candidates: Sequence[ComparedRouter]) -> dict[str, Any]:
    chance = next(c for c in candidates if c.kind == BASELINE)
    return {
        "kind": candidate.kind,
        "placement": candidate.placement,
        "decision_ms": round(candidate.decision_ms, 4),
        "fit_s": round(candidate.fit_s, 2),
        "at_target": {"share": candidate.share, "quality": candidate.quality, "drop": candidate.drop},
        "apgr_behind_best": interval_json(difference(candidates[0], candidate)),
        "apgr_over_random": interval_json(difference(candidate, chance)),
        **candidate.evaluation.to_json(),
    }


def _row(candidate: ComparedRouter) -> list[str]:
    figures = candidate.evaluation.figures
    plain = [f"{figures[name].value:.3f}" for name in ("cpt50", "cpt80", "auc")]
    return [
        candidate.kind,
        _with_interval(figures["apgr"]),
        *plain,
        _with_interval(figures["drop_at_20%"], percent=True),
        f"{100 * candidate.share:.1f} %",
        f"{100 * candidate.drop:.2f} %",
        candidate.placement,
        f"{candidate.decision_ms:.2g}",
        f"{candidate.fit_s:.1f}",
    ]


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
    with needs_extra("plots need matplotlib", "train"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
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
