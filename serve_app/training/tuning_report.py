"""A tuning as one page: the recommendation, a table, a plot, and what it saves a month; Markdown, JSON and PNG."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serve_app import plots
from serve_app.learning.metrics import Interval
from serve_app.numbers import between, percent, significant, usd
from serve_app.training.comparison import BASELINE
from serve_app.training.evaluation import interval_json
from serve_app.training.report import draw_curves, markdown_table, with_interval
from serve_app.training.tuning import CALIBRATION, TEST, TRAIN, OperatingPoint, Reference, Tuned

PLOT = "tuning.png"


def tuning_markdown(tuned: Tuned, queries_per_month: int, metric: str) -> str:
    """The page. All figures of quality and cost are of the test part, with 95 % bootstrap intervals."""
    weak, strong = tuned.models
    parts = [
        f"# Router for {weak} and {strong}",
        _verdict(tuned, queries_per_month),
        f"![Quality over {'the share of calls to the large model' if tuned.candidates else 'cost'}]({PLOT})",
        "## On queries that took no part in any choice",
        f"{tuned.parts[TEST]:,} test queries, quality by `{metric}`; in brackets 95 % bootstrap intervals.",
        markdown_table(_HEAD, _rows(tuned, queries_per_month)),
        _what(tuned),
        _compared(tuned),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def tuning_json(tuned: Tuned, queries_per_month: int, metric: str) -> dict[str, Any]:
    """JSON-ready, with the curve on the test part."""

    def reference(of: Reference) -> dict[str, Any]:
        return {"quality": interval_json(of.quality), "cost_usd": interval_json(of.cost_usd)}

    points = [
        {name: interval_json(Interval(**value)) if isinstance(value, dict) else value for name, value in p.items()}
        for p in map(asdict, tuned.points)
    ]
    return {
        "offered": tuned.useful,
        "kind": tuned.kind,
        "version": tuned.version,
        "reason": tuned.reason,
        "advice": tuned.advice,
        "metric": metric,
        "queries_per_month": queries_per_month,
        "queries": dict(tuned.parts),
        "models": dict(zip(("weak", "strong"), tuned.models, strict=True)),
        "always_weak": reference(tuned.weak),
        "always_strong": reference(tuned.strong),
        "points": points,
        "compared": {c.kind: interval_json(c.evaluation.figures["apgr"]) for c in tuned.candidates},
        "refused": dict(tuned.refused),
        "evaluation": None if tuned.evaluation is None else tuned.evaluation.to_json(),
    }


def plot_tuning(tuned: Tuned, path: Path) -> None:
    """One PNG: the kinds compared on the training part; the chosen one on the test part with its threshold.

    Raises DependencyError without matplotlib.
    """
    if not tuned.candidates:
        _plot_models(tuned, path)
        return
    shown = [c.evaluation for c in tuned.candidates if c.kind != BASELINE]
    evaluation = tuned.evaluation
    figure, axes = plots.new_figure(1 if evaluation is None else 2)
    panels = [axes] if evaluation is None else list(axes)
    draw_curves(panels[0], shown, what=f"compared: cross-validated on {shown[0].queries:,} training queries")
    if evaluation is not None:
        point = tuned.points[0]
        chosen = {"share": point.share, "quality": point.quality}
        title = f"chosen: {evaluation.queries:,} test queries, threshold for {point.target}"
        draw_curves(panels[1], [evaluation], chosen, title)
    plots.save(figure, path)


def _plot_models(tuned: Tuned, path: Path) -> None:
    """Both models alone: quality over cost, with intervals."""
    figure, axes = plots.new_figure()
    for number, (name, one) in enumerate(zip(tuned.models, (tuned.weak, tuned.strong), strict=True)):
        x, y = one.cost_usd, one.quality
        error = {"xerr": [[x.value - x.low], [x.high - x.value]], "yerr": [[y.value - y.low], [y.high - y.value]]}
        axes.errorbar([x.value], [y.value], **error, color=plots.color(number), capsize=3, linewidth=1)
        plots.mark(axes, number, (x.value, y.value), f"always {name}")
    labels = {"xlabel": "US dollars a query", "ylabel": "mean quality"}
    plots.finish(axes, f"{tuned.parts[TEST]:,} test queries, 95 % intervals", **labels)
    plots.save(figure, path)


def summary(tuned: Tuned, queries_per_month: int) -> str:
    """The recommendation in two or three sentences, for the terminal."""
    return _verdict(tuned, queries_per_month).replace("**", "").replace("`", "")


_HEAD = (
    "policy",
    "threshold",
    "calls to large",
    "quality",
    "quality drop",
    "above random",
    "cost a query",
    "saves a month",
)


def _verdict(tuned: Tuned, queries_per_month: int) -> str:
    if not tuned.useful:
        return f"**No router is recommended:** {tuned.reason}. Instead: {tuned.advice}."
    point = tuned.points[0]
    saves = f"{percent(1 - point.share.value)} fewer calls to the large model"
    if tuned.strong.cost_usd.value > 0:
        saves += f", {_monthly(point, queries_per_month)} saved a month at {queries_per_month:,} queries"
    else:
        saves += " (the config has no prices, so that what it saves is not known)"
    return (
        f"**Recommended: `{tuned.kind}` at threshold {significant(point.threshold, 4)}** (chosen for {point.target} on "
        f"the calibration part): quality {with_interval(point.quality)} against {with_interval(tuned.strong.quality)} "
        f"of the large model alone, {saves}."
    )


def _rows(tuned: Tuned, queries_per_month: int) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [_alone("always large", tuned.strong, tuned.strong, queries_per_month)]
    for number, point in enumerate(tuned.points):
        cost = tuned.strong.cost_usd.value - point.saved_usd.value
        name = "**recommended:** " if number == 0 and tuned.useful else ""
        share, drop, gain = (_percent(value) for value in (point.share, point.drop, point.gain))
        own = (significant(point.threshold, 4), share, with_interval(point.quality), drop, gain)
        rows.append((f"{name}{point.target}", *own, _usd(cost), _monthly(point, queries_per_month)))
    rows.append(_alone("always small", tuned.weak, tuned.strong, queries_per_month))
    return rows


def _alone(name: str, one: Reference, strong: Reference, queries_per_month: int) -> Sequence[str]:
    share = "100 %" if one is strong else "0 %"
    size = abs(strong.quality.value) or 1.0
    drop = percent((strong.quality.value - one.quality.value) / size)
    saved = (strong.cost_usd.value - one.cost_usd.value) * queries_per_month
    cost = one.cost_usd.value
    return (
        name,
        "",
        share,
        with_interval(one.quality),
        drop,
        "",
        _usd(cost),
        usd(saved) if strong.cost_usd.value else "-",
    )


def _monthly(point: OperatingPoint, queries_per_month: int) -> str:
    saved = point.saved_usd
    if saved.value == saved.low == saved.high == 0.0:
        return "-"
    return between(*(usd(part * queries_per_month) for part in (saved.value, saved.low, saved.high)))


def _percent(value: Interval) -> str:
    return between(*(percent(part) for part in (value.value, value.low, value.high)))


def _usd(cost: float) -> str:
    return usd(cost) if cost else "-"


def _what(tuned: Tuned) -> str:
    trained, calibrated = tuned.parts[TRAIN], tuned.parts[CALIBRATION]
    return (
        f"The router was chosen and trained on {trained:,} queries, each threshold on {calibrated:,} others. Drop is "
        "relative to the large model alone; `above random` is the quality above sending as many queries to the large "
        "model at random. Costs are those of the answers collected."
    )


def _compared(tuned: Tuned) -> str:
    if not tuned.candidates:
        return ""
    rows = [
        (c.kind, with_interval(c.evaluation.figures["apgr"]), f"{significant(c.decision_ms, 2)}")
        for c in tuned.candidates
    ]
    refused = [f"{kind} could not take part: {reason}." for kind, reason in tuned.refused.items()]
    table = markdown_table(("kind", "APGR", "ms a decision"), rows)
    how = (
        f"Cross-validated on the {tuned.parts[TRAIN]:,} training queries. APGR is the share of the quality gap between "
        "the models that a router recovers, averaged over the share of calls to the large one; random routing has 0.5 "
        "in expectation."
    )
    return "\n\n".join(["## Kinds compared", how, table, *refused, f"{tuned.reason[0].upper()}{tuned.reason[1:]}."])
