"""`jethro ensemble`: a plan for several models from collected answers, and one better answer out of several."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.ensemble.fusing import fuse, train_fuser
from serve_app.cli.ensemble.ranking import rank, train_ranker
from serve_app.cli.options import listed, new_group, say, write_report
from serve_app.errors import ConfigError, DataError
from serve_app.numbers import between, fixed, percent, significant

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset
    from serve_app.ensemble.artefact import FittedPlan
    from serve_app.ensemble.fitting.plan import EnsembleFit
    from serve_app.ensemble.fitting.shapes import PlanOutcome

DataArgument = Annotated[Path, typer.Argument(metavar="DATA", help="Scored answers of `jethro data collect`.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only the rows of this split; default all.")]
_TARGET = "quality=0.9 or quality-drop=0.01 (the cheapest plan that reaches it), strong-share=0.2, cost=0.0002."
_FORM = "Form in which answers are compared: exact, text, choice, number, literal, last_line, boxed; auto: what fits."
_REPORT = "Also write ensemble.json, .md and .png here. Default: the folder of the plan."


def fit(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for the plan; name it in ensemble.plan.")],
    target: Annotated[str | None, typer.Option(help=_TARGET)] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Mean US dollars a query at most; the best plan.")] = None,
    max_strong_share: Annotated[float | None, typer.Option(help="Share of queries that may call the strong.")] = None,
    members: Annotated[str | None, typer.Option(help="Comma-separated pools; default all that are recorded.")] = None,
    strong: Annotated[str | None, typer.Option(help="The pool that is called last; default the dearest.")] = None,
    most_members: Annotated[int, typer.Option(min=1, max=8, help="Cheap pools that a plan calls at most.")] = 4,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Answers of one pool at most, as far as recorded.")] = 1,
    form: Annotated[str, typer.Option("--normalizer", help=_FORM)] = "auto",
    split: SplitOption = None,
    report: Annotated[Path | None, typer.Option(help=_REPORT)] = None,
    seed: Annotated[int, typer.Option(help="Draws folds.")] = 0,
) -> None:
    """Fit an ensemble: whom to ask first, how votes count, and when the strong model is needed.

    Figures are of queries held out of the fit. Refused where a single model is as good for as much; the message names
    it.

    \b
    Examples:
      jethro ensemble fit answers.parquet --max-strong-share 0.2 --out var/ensembles/mine
      jethro ensemble fit answers.parquet --target quality-drop=0.01 --samples 4 --out var/ensembles/mine
      jethro ensemble fit answers.parquet --budget-usd 0.0002 --members a,b,large --out var/ensembles/mine
    """
    from serve_app.ensemble.artefact import save_plan
    from serve_app.ensemble.fitting.goal import Goal
    from serve_app.ensemble.fitting.plan import EnsembleFit, EnsembleOptions

    goal = Goal.parse(target, budget_usd, max_strong_share)
    options = EnsembleOptions(
        members=listed(members) if members else (),
        strong=strong,
        most_members=most_members,
        samples=samples,
        form=form,
        seed=seed,
    )
    fitting = EnsembleFit(_answers(data, split), options, say)
    fitted = fitting.plan(goal)
    save_plan(fitted, out)
    typer.echo(f"{out}: {fitted.plan.version}")
    _say_plan(fitted)
    write_report(
        report or out, "ensemble", _body(fitting, fitted), _markdown(fitting, fitted), _Plot(fitting, fitted).draw
    )


def show(folder: Annotated[Path, typer.Argument(help="The folder of a fitted plan.")]) -> None:
    """Show a fitted plan: rounds, members, when it stops, and expected figures."""
    from serve_app.ensemble.artefact import load_fitted

    fitted = load_fitted(folder)
    typer.echo(f"{fitted.plan.version}, fitted for {fitted.target or 'no target'}")
    _say_plan(fitted)


def evaluate(
    folder: Annotated[Path, typer.Argument(help="The folder of a fitted plan.")],
    data: Annotated[Path, typer.Option("--data", help="Other scored answers of the same pools.")],
    split: SplitOption = None,
    force: Annotated[bool, typer.Option("--force", help="Even on the answers that it was fitted on.")] = False,
) -> None:
    """Measure a fitted plan on other recorded answers, as it would be served: quality, cost, calls.

    \b
    Examples:
      jethro ensemble evaluate var/ensembles/mine --data measure.parquet
      jethro ensemble evaluate var/ensembles/mine --data answers.parquet --split test
    """
    from serve_app.ensemble.artefact import load_fitted
    from serve_app.ensemble.fitting.answers import Answers
    from serve_app.ensemble.fitting.shapes import replay
    from serve_app.ensemble.fitting.worth import Singles

    fitted = load_fitted(folder)
    dataset = _answers(data, split)
    if dataset.digest() == fitted.data.get("digest") and not force:
        raise ConfigError(f"{data}: {folder} was fitted on these answers; give others, or --force")
    for pool, model in fitted.plan.models.items():
        if pool in dataset.pools and dataset.pools[pool].model not in ("", model):
            raise DataError(f"{data}: {pool} is {dataset.pools[pool].model}, the plan was fitted on {model}")
    answers = Answers.of(dataset, form=fitted.plan.normalizer)
    outcome = replay(fitted.plan, answers, str(fitted.data.get("strong", "")))
    _say_outcome(outcome)
    singles = Singles.of(answers)
    best = singles.rival(float(outcome.cost_usd.mean()))
    if best is not None:
        quality, cost = float(singles.quality[:, best].mean()), float(singles.cost_usd[:, best].mean())
        typer.echo(
            f"  best single model at that cost: {singles.names[best]}, {fixed(quality, 4)} at {significant(cost)}"
        )


def _answers(path: Path, split: str | None) -> "Dataset":
    from serve_app.data.recorded import read_answers

    dataset = read_answers(path)
    if split is None:
        return dataset
    if not (rows := [i for i, name in enumerate(dataset.splits) if name == split]):
        there = ", ".join(sorted(set(dataset.splits) - {""})) or "none: leave --split out"
        raise DataError(f"{path}: there is no split {split!r}, but {there}")
    return dataset.take(rows)


def _say_plan(fitted: "FittedPlan") -> None:
    from serve_app.ensemble.fitting.shapes import described

    plan, found = fitted.plan, fitted.plan.expected
    for number, each in enumerate(plan.rounds):
        last = number == len(plan.rounds) - 1
        what = "" if last else f": its leading answer is taken if it is right with {fixed(each.stop_at, 3)} or more"
        typer.echo(f"  round {number + 1}: {described((each.calls,))}{what}")
    typer.echo(f"  picks by {plan.select}, answers compared as {plan.normalizer}")
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


def _say_outcome(outcome: "PlanOutcome") -> None:
    from serve_app.ensemble.fitting.worth import interval

    quality, cost = interval(outcome.quality), interval(outcome.cost_usd)
    figures = between(*(fixed(part, 4) for part in (quality.value, quality.low, quality.high)))
    usd = between(*(significant(part) for part in (cost.value, cost.low, cost.high)))
    typer.echo(
        f"  quality {figures}, {usd} USD a query, {percent(float(outcome.strong.mean()))} call the strong member"
    )


def _body(fitting: "EnsembleFit", fitted: "FittedPlan") -> Mapping[str, Any]:
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


def _markdown(fitting: "EnsembleFit", fitted: "FittedPlan") -> str:
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
        f"{table}\n"
    )


class _Plot:
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


group = new_group(help="Several answers to one query: fit whom to ask and how votes count, rank, fuse the best.")
group.command("fit")(fit)
group.command("evaluate")(evaluate)
group.command("show")(show)
group.command("rank")(rank)
group.command("train-ranker")(train_ranker)
group.command("fuse")(fuse)
group.command("train-fuser")(train_fuser)
