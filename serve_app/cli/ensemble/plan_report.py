"""What `jethro ensemble fit`, `show` and `evaluate` say of a plan: lines, a table and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from serve_app.errors import ConfigError
from serve_app.numbers import between, fixed, percent, significant

if TYPE_CHECKING:
    from serve_app.ensemble.agreement import StopRule
    from serve_app.ensemble.artefact import FittedPlan
    from serve_app.ensemble.fitting.plan import EnsembleFit
    from serve_app.ensemble.fitting.shapes import PlanOutcome


def say_plan(fitted: "FittedPlan") -> None:
    """Print rounds, members, when it stops, expected figures, and what it was chosen over."""
    from serve_app.ensemble.artefact import agreement_of
    from serve_app.ensemble.fitting.shapes import described

    plan, found, model = fitted.plan, fitted.plan.expected, agreement_of(fitted.plan)
    for number, each in enumerate(plan.rounds):
        last = number == len(plan.rounds) - 1
        when = "" if last else f": {_when(each.stop_at, None if model is None else model.stops)}"
        typer.echo(f"  round {number + 1}: {described((each.calls,))}{when}")
    fused = f", the best {plan.fuse_top} fused by {plan.fuser}" if plan.fuse_top else ""
    with_ = f" {plan.ranker}" if plan.select == "ranker" else ""
    typer.echo(f"  picks by {plan.select}{with_}{fused}, answers compared as {plan.normalizer}")
    if not found:
        return
    try:
        quality = between(*(fixed(found[key], 4) for key in ("quality", "quality_low", "quality_high")))
        share = between(*(percent(found[f"strong_share{end}"]) for end in ("", "_low", "_high")))
        typer.echo(f"  quality {quality}, {significant(found['cost_usd'])} USD a query (held out)")
        typer.echo(
            f"  {share} call {fitted.data.get('strong', 'the strong member')}, which alone has "
            f"{fixed(found['strong_quality'], 4)} at {significant(found['strong_cost_usd'])} USD"
        )
    except KeyError as e:
        raise ConfigError(f"expected has no {e.args[0]}; fit the ensemble again, or empty it") from None
    shares = [f"{k.removeprefix('share:')} {percent(v)}" for k, v in found.items() if k.startswith("share:")]
    typer.echo("  called: " + ", ".join(shares))
    for line in _ways(fitted):
        typer.echo(f"  {line}")


def _when(stop_at: float, stops: "StopRule | None") -> str:
    """When a plan stops after a round."""
    if stops == "gain":
        return f"its leading answer is taken if further rounds are expected to add {fixed(1 - stop_at, 3)} or less"
    return f"its leading answer is taken if it is right with {fixed(stop_at, 3)} or more"


def _ways(fitted: "FittedPlan") -> list[str]:
    """What was chosen over what, a line for each way of picking."""
    lines = []
    for one in fitted.data.get("tried") or ():
        if why := one.get("why_not"):
            lines.append(f"by {one['picks']}: {why}")
            continue
        lines.append(
            f"by {one['picks']}: quality {fixed(one['quality'], 4)}, {significant(one['cost_usd'])} USD a query, "
            f"{percent(one['strong_share'])} strong calls, {one['plan']}, stops by {one['stops']}"
            f"{' (chosen)' if one['chosen'] else ''}"
        )
    return lines + ([f"fusing {sets}"] if (sets := fitted.data.get("sets")) else [])


def say_outcome(outcome: "PlanOutcome") -> None:
    """Print measured quality, cost and calls."""
    from serve_app.ensemble.fitting.worth import interval

    quality, cost = interval(outcome.quality), interval(outcome.cost_usd)
    figures = between(*(fixed(part, 4) for part in (quality.value, quality.low, quality.high)))
    usd = between(*(significant(part) for part in (cost.value, cost.low, cost.high)))
    typer.echo(
        f"  quality {figures}, {usd} USD a query, {percent(float(outcome.strong.mean()))} call the strong member"
    )


def body(fitting: "EnsembleFit", fitted: "FittedPlan") -> Mapping[str, Any]:
    """The report as JSON has it."""
    singles = fitting.singles
    alone = {
        name: {"quality": float(q), "cost_usd": float(c)}
        for name, q, c in zip(singles.names, singles.quality.mean(0), singles.cost_usd.mean(0), strict=True)
    }
    plan = fitted.plan
    return {
        "version": plan.version,
        "target": fitted.target,
        "expected": dict(plan.expected),
        "singles": alone,
        "data": dict(fitted.data),
    }


def markdown(fitting: "EnsembleFit", fitted: "FittedPlan") -> str:
    """The report as text."""
    from serve_app.ensemble.fitting.shapes import described

    plan, found, singles = fitted.plan, fitted.plan.expected, fitting.singles
    rows = [
        (name, fixed(float(q), 4), significant(float(c)), "")
        for name, q, c in zip(singles.names, singles.quality.mean(0), singles.cost_usd.mean(0), strict=True)
    ]
    quality = between(*(fixed(found[key], 4) for key in ("quality", "quality_low", "quality_high")))
    rows.append(("**ensemble**", quality, significant(found["cost_usd"]), percent(found["strong_share"])))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        f"# Ensemble {plan.version}\n\nFitted for {fitted.target} on {len(fitting.answers):,} queries; every figure is "
        f"of queries held out of the fit. Every call is paid.\n\n`{described(tuple(r.calls for r in plan.rounds))}`, "
        f"stops at {', '.join(fixed(r.stop_at, 3) for r in plan.rounds[:-1]) or 'the only round'}; answers are "
        f"compared as {plan.normalizer}.\n\n"
        f"| | quality | USD a query | calls of {fitting.strong} |\n| --- | ---: | ---: | ---: |\n"
        f"{table}\n\n## Ways of picking the answer\n\nThe vote, unless another way is surely better.\n\n"
        + "".join(f"- {line}\n" for line in _ways(fitted))
    )


class PlanPlot:
    """Quality over cost: every model alone, and the plan with its intervals."""

    def __init__(self, fitting: "EnsembleFit", fitted: "FittedPlan") -> None:
        self._singles, self._fitted = fitting.singles, fitted

    def draw(self, path: Path) -> None:
        """Write a PNG."""
        from serve_app import plots

        figure, axes = plots.new_figure()
        singles, found = self._singles, self._fitted.plan.expected
        for name, q, c in zip(singles.names, singles.quality.mean(0), singles.cost_usd.mean(0), strict=True):
            axes.plot([c], [q], "o", color=plots.GREY, markersize=5)
            axes.annotate(name, (c, q), fontsize=7, textcoords="offset points", xytext=(4, -8))
        low, high = found["quality_low"], found["quality_high"]
        spread = [[found["quality"] - low], [high - found["quality"]]]
        axes.errorbar(
            [found["cost_usd"]], [found["quality"]], yerr=spread, fmt="s", color=plots.color(0), label="ensemble"
        )
        plots.finish(axes, str(self._fitted.target), xlabel="mean cost, USD a query", ylabel="quality, held out")
        plots.save(figure, path)
