"""Figures of a setting over its splits, the verdict, the table and the picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ensembles.methods import Half
from benchmarks.ensembles.settings import Setting
from benchmarks.table import markdown
from serve_app import plots
from serve_app.numbers import between, fixed, percent, significant

PART, POINT = 0.75, 0.01
"""A setting is reached with the cascade's quality at this part of its strong calls, or so much more at the same."""
_ROUNDING = 0.005
"""Of a share of strong calls on other queries than those it was limited on."""
_ROUNDS = 1000
_PER = 1000.0
"""Queries whose cost the picture shows."""


def summary(runs: Sequence[Half], floors: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Means over the splits, with 95 % intervals: of quality by resampled queries, and of differences by splits.

    `floors`: quality and share of the untuned cascade on each split's test half.
    """
    quality = np.array([half.quality.mean() for half in runs])
    against = np.array([q for q, _ in floors])
    lead = quality - against
    gains = [half.gain for half in runs if not np.isnan(half.gain).any()]
    return {
        "plans": sorted({half.plan for half in runs}),
        "refused": sum(bool(half.refused) for half in runs),
        "splits": len(runs),
        "quality": float(quality.mean()),
        "quality_interval": _interval([half.quality for half in runs]),
        "lead": float(lead.mean()),
        "lead_by_split": lead.round(4).tolist(),
        "strong_share": float(np.mean([half.strong.mean() for half in runs])),
        "cost_usd": float(np.mean([half.cost_usd.mean() for half in runs])),
        "over_single": float(np.mean([gain.mean() for gain in gains])) if gains else None,
        "over_single_interval": _interval(gains) if gains else None,
    }


def _interval(parts: Sequence[Any]) -> list[float]:
    """95 % of the mean over splits, the queries of each resampled."""
    rng = np.random.default_rng(0)
    drawn = [np.mean([part[rng.integers(0, len(part), len(part))].mean() for part in parts]) for _ in range(_ROUNDS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return [float(low), float(high)]


def reached(setting: Setting, found: Mapping[str, Any]) -> dict[str, bool]:
    """Whether fewer calls and more quality are reached, both measured on the test halves."""
    fewer, same = found["fewer"], found["same"]
    share = found["floor"]["share"]
    return {
        "fewer": fewer["lead"] >= 0 and fewer["strong_share"] <= PART * share + _ROUNDING,
        "same": same["lead"] >= POINT and same["strong_share"] <= share + _ROUNDING,
    }


CHOSEN = (
    "What was chosen with which rows in view: the penalty of the votes, the forms of answers, the third for cheap "
    "members, and that a fit starts from the vote of several of them, on other halves of the same rows, some of them "
    "reported before; on seeds 400 to 409 alone: that a limit of strong calls has no slack, words among what makes "
    "queries alike, how sure these must be, and that stopping by expected gain and by probability are both tried (seen "
    "on all five settings). All splits are halves of the same rows: the seeds are new, the queries are not, so figures "
    "stay somewhat flattered; queries never seen are the test. The picture is of the first split."
)


def _over(found: Mapping[str, Any]) -> str:
    if found["over_single"] is None:
        return "-"
    low, high = found["over_single_interval"]
    return between(*(fixed(100 * x, 2, sign=True) for x in (found["over_single"], low, high)))


def _routed(settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether routing was measured next to the ensembles."""
    return any(found["same"].get("routing") for one in settings for found in one["lines"].values())


def _below_single(settings: Sequence[Mapping[str, Any]]) -> str:
    """Which fitted ensembles are below the best single model that costs no more, beyond the interval."""
    every = [
        (f"{one['name']}, {line}, {key}", found[key])
        for one in settings
        for line, found in one["lines"].items()
        for key in ("fewer", "same")
    ]
    below = [name for name, found in every if found["over_single"] is not None and found["over_single_interval"][1] < 0]
    least = min(found["over_single"] for _, found in every if found["over_single"] is not None)
    return (
        f"Below the best single model at its cost, beyond the interval: {'; '.join(below) or 'none'} of {len(every)} "
        f"ensembles (least difference {fixed(100 * least, 2, sign=True)} points)."
    )


def text(result: Mapping[str, Any]) -> str:
    """The report."""
    head = [
        "setting", "members", "floor", "strong alone", "at 3/4 of its calls", "calls", "at the same calls", "calls",
        "USD a query", "over the best single", "routing there", "cascade routing there", "reached",
    ]  # fmt: skip
    rows = []
    for one in result["settings"]:
        for line, found in one["lines"].items():
            fewer, same = found["fewer"], found["same"]
            routes = same.get("routing") or {}
            rows.append(
                [
                    one["name"],
                    line,
                    f"{fixed(found['floor']['quality'], 3)} at {percent(found['floor']['share'])}",
                    f"{fixed(one['strong_quality'], 3)} at {significant(one['strong_cost_usd'])}",
                    f"{fixed(fewer['quality'], 4)} ({fixed(100 * fewer['lead'], 2, sign=True)})",
                    percent(fewer["strong_share"]),
                    f"{fixed(same['quality'], 4)} ({fixed(100 * same['lead'], 2, sign=True)})",
                    percent(same["strong_share"]),
                    significant(same["cost_usd"]),
                    _over(same),
                    *(fixed(routes[name], 4) if name in routes else "-" for name in ("routing", "cascade routing")),
                    "yes" if any(found["reached"].values()) else "no",
                ]
            )
    notes = [
        f"Fitted on a random half, measured on the other, {result['splits']} splits (seeds {result['seed']} to "
        f"{result['seed'] + result['splits'] - 1}); differences in points against the untuned cascade on the same test "
        "halves (two small models, the strong one where they differ). Every call is paid, at assumed list prices, "
        "tokens = characters / 4. `three`: the models of the setting alone; `with cheap members`: also the most "
        "accurate recorded models below a third of the strong one's cost. Where a fit was refused, the single model "
        "that it names is measured. Routing and cascade routing: between the three models, at the mean cost of the "
        "plan at the same calls. Over the best single: over the best model that costs no more, by its answers to the "
        "same half, with a 95 % interval.",
        *([] if _routed(result["settings"]) else ["Routing and cascade routing were left out of this run."]),
        *([f"Routing and cascade routing: of the first {n} splits."] if (n := result.get("routed_splits")) else []),
        CHOSEN,
        _below_single(result["settings"]),
        *(
            f"{one['name']}, {line}: {', '.join(found['same']['plans'])}; refused in "
            f"{found['fewer']['refused']} and {found['same']['refused']} splits."
            for one in result["settings"]
            for line, found in one["lines"].items()
        ),
    ]
    return "# Fitted ensembles\n\n" + markdown(head, rows) + "\n" + "\n\n".join(notes) + "\n"


def draw(settings: Sequence[Mapping[str, Any]], caption: str, path: Path) -> None:
    """Quality over mean cost on the test halves, a panel for each setting."""
    figure, grid = plots.new_figure(len(settings), 4.4, 3.6, squeeze=False)
    for axes, one in zip(grid.ravel(), settings, strict=True):
        for number, (name, points) in enumerate(one["curves"].items()):
            ordered = sorted(points)
            style = {"linewidth": 1.8} if name in one["lines"] else {"linewidth": 1.0, "linestyle": "--"}
            axes.plot(
                [_PER * c for c, _ in ordered], [q for _, q in ordered], color=plots.color(number), label=name, **style
            )
        for name, (cost, quality) in one["singles"].items():
            axes.plot([_PER * cost], [quality], ".", color="black", markersize=5)
            at = _PER * cost, quality
            axes.annotate(name[:18], at, fontsize=6, textcoords="offset points", xytext=(3, -7))
        axes.plot(
            _PER * one["cascade"][0], one["cascade"][1], "*", color=plots.GREY, markersize=10, label="untuned cascade"
        )
        plots.finish(axes, one["name"], xlabel="mean cost, USD per 1,000 queries")
    figure.supylabel("quality on the other half", fontsize=9)
    plots.caption(figure, caption)
    plots.save(figure, path)
