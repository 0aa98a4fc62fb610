"""Evaluations and comparisons of routers as Markdown, JSON and plots, each figure with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve_app import plots
from serve_app.data.dataset import Dataset
from serve_app.learning.metrics import Interval
from serve_app.numbers import between, fixed, percent, significant
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
    rows = [[name, with_interval(evaluation.figures[key]), *_bounds(evaluation, key)] for key, name in _PLAIN.items()]
    rows += [
        [
            f"quality drop at {advantage:.0%} cost advantage",
            with_interval(evaluation.figures[f"drop_at_{advantage:.0%}"], as_percent=True),
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
            significant(at["cost_usd"].value) if at["cost_usd"].value else "-",
            with_interval(at["cost_share"], as_percent=True),
        ]
        share, drop = (with_interval(at[name], as_percent=True) for name in ("share", "drop"))
        rows.append(
            [significant(threshold, 6), share, with_interval(at["quality"]), drop, with_interval(at["pgr"]), *costs]
        )
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
    return [percent(advantage * (strong - weak) / size, 2), percent((strong - oracle) / size, 2)]


def with_interval(value: Interval, as_percent: bool = False) -> str:
    """A figure with its interval, to three decimals, or as a percentage with two."""
    parts = (value.value, value.low, value.high)
    return between(*(percent(part, 2) if as_percent else fixed(part, 3) for part in parts))


def _plain(value: float) -> str:
    return fixed(value, 3)


def comparison_markdown(candidates: Sequence[ComparedRouter], refused: Mapping[str, str], plan: ComparisonPlan) -> str:
    """The report of a comparison."""
    rows = [_row(c) for c in candidates]
    head = ["router", "APGR", "CPT(50)", "CPT(80)", "AUC", "drop at 20% advantage", f"strong calls at {plan.target}"]
    head += ["drop there", "runs", "ms a decision", "fit s"]
    first = candidates[0].evaluation
    parts = [
        "# Routers compared",
        f"{first.queries:,} queries in {plan.folds} folds, each scored by a router fitted on the other folds; always "
        f"weak {fixed(first.curve.weak, 4)}, always strong {fixed(first.curve.strong, 4)}, APGR of the oracle "
        f"{_plain(first.oracle_apgr)}. In brackets 95 % bootstrap intervals.",
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
    plain = [_plain(figures[name].value) for name in ("cpt50", "cpt80", "auc")]
    return [
        candidate.kind,
        with_interval(figures["apgr"]),
        *plain,
        with_interval(figures["drop_at_20%"], as_percent=True),
        percent(candidate.share),
        percent(candidate.drop, 2),
        candidate.placement,
        significant(candidate.decision_ms, 2),
        fixed(candidate.fit_s, 1),
    ]


def plot_evaluation(evaluation: Evaluation, path: Path) -> None:
    """One PNG: quality over the share of strong calls with its baselines, and the reliability diagram.

    Raises DependencyError without matplotlib.
    """
    figure, (left, right) = plots.new_figure(2)
    draw_curves(left, [evaluation], evaluation.at(evaluation.thresholds[0]))
    rows = evaluation.reliability
    score = np.array([row["score"] for row in rows])
    outcome = np.array([row["outcome"] for row in rows])
    error = 1.96 * np.array([row["standard_error"] for row in rows])
    right.plot([0, 1], [0, 1], color=plots.GREY, linestyle=":", label="calibrated")
    bins = {"marker": "o", "markersize": 4, "capsize": 2, "color": plots.color(0)}
    right.errorbar(score, outcome, error, label="bins of equal mass, 95 %", **bins)
    error_is = fixed(evaluation.figures["calibration_error"].value, 3)
    labels = {"xlabel": "score (predicted strong win rate)", "ylabel": "observed strong win rate"}
    plots.finish(right, f"reliability, error {error_is}", xlim=(0, 1), ylim=(0, 1), **labels)
    plots.save(figure, path)


def plot_comparison(evaluations: Sequence[Evaluation], path: Path) -> None:
    """One PNG: the curves of all routers on the same queries. Raises DependencyError without matplotlib."""
    figure, axes = plots.new_figure()
    draw_curves(axes, evaluations)
    plots.save(figure, path)


def draw_curves(
    axes: Any, evaluations: Sequence[Evaluation], chosen: Mapping[str, Interval] | None = None, what: str = ""
) -> None:
    """Quality over the share of strong calls for each, with random, always-weak, always-strong and the oracle.

    `chosen`: share and quality at the threshold of the first, drawn with their intervals. `what`: the title.
    """
    first = evaluations[0]
    weak, strong = first.curve.weak, first.curve.strong
    axes.plot(first.oracle.share, first.oracle.quality, color=plots.GREY, linestyle="--", label="oracle")
    for number, evaluation in enumerate(evaluations):
        apgr = evaluation.figures["apgr"].value
        label = f"{evaluation.router} (APGR {fixed(apgr, 3)})" if np.isfinite(apgr) else evaluation.router
        axes.plot(evaluation.curve.share, evaluation.curve.quality, color=plots.color(number), label=label)
    axes.plot([0, 1], [weak, strong], color=plots.GREY, linestyle=":", label="random")
    plots.mark(axes, 1, (0.0, weak), "always weak", filled=False, color=plots.GREY)
    plots.mark(axes, 2, (1.0, strong), "always strong", filled=False, color=plots.GREY)
    if chosen is not None:
        at = {name: chosen[name] for name in ("share", "quality")}
        x, y = at["share"].value, at["quality"].value
        spread = [[[v.value - v.low], [v.high - v.value]] for v in at.values()]
        axes.errorbar([x], [y], xerr=spread[0], yerr=spread[1], color="black", capsize=3, linewidth=1, zorder=4)
        plots.mark(axes, 3, (x, y), "threshold, 95 %", color="black")
    labels = {"xlabel": "share of strong calls", "ylabel": "mean quality"}
    plots.finish(axes, what or f"{first.queries:,} queries", xlim=(-0.03, 1.03), **labels)
