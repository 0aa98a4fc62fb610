"""`jethro ensemble`: a plan for several models from collected answers, and one better answer out of several."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.ensemble.fusing import fuse, train_fuser
from serve_app.cli.ensemble.plan_report import PlanPlot, body, markdown, say_outcome, say_plan
from serve_app.cli.ensemble.ranking import rank, train_ranker
from serve_app.cli.options import listed, new_group, say, write_report
from serve_app.errors import ConfigError, DataError
from serve_app.numbers import fixed, significant

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset
    from serve_app.ensemble.fitting.models import FitModels

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
    ranker: Annotated[Path | None, typer.Option(help="Folder of a ranker that may pick the answer.")] = None,
    fuser: Annotated[Path | None, typer.Option(help="Folder of a trained fuser that may write it.")] = None,
    fuse_top: Annotated[int, typer.Option(min=2, max=16, help="Best answers that are fused.")] = 3,
    form: Annotated[str, typer.Option("--normalizer", help=_FORM)] = "auto",
    split: SplitOption = None,
    report: Annotated[Path | None, typer.Option(help=_REPORT)] = None,
    seed: Annotated[int, typer.Option(help="Draws folds.")] = 0,
) -> None:
    """Fit an ensemble: whom to ask first, how the answer is picked, and when the strong model is needed.

    Picked by vote, unless log-probabilities, the last model, a ranker or a fuser is surely better on your answers; the
    table shows each. Figures are of queries held out of the fit. Refused where a single model is as good for as much;
    the message names it. A ranker or fuser should have been trained on other answers than these.

    \b
    Examples:
      jethro ensemble fit answers.parquet --max-strong-share 0.2 --out var/ensembles/mine
      jethro ensemble fit answers.parquet --target quality-drop=0.01 --samples 4 --out var/ensembles/mine
      jethro ensemble fit answers.parquet --budget-usd 0.0002 --members a,b,large --out var/ensembles/mine
      jethro ensemble fit answers.parquet --max-strong-share 0.2 --ranker var/rankers/mine --out var/ensembles/mine
    """
    from serve_app.ensemble.artefact import save_plan
    from serve_app.ensemble.fitting.goal import Goal
    from serve_app.ensemble.fitting.plan import EnsembleFit
    from serve_app.ensemble.fitting.search import EnsembleOptions

    goal = Goal.parse(target, budget_usd, max_strong_share)
    options = EnsembleOptions(
        members=listed(members) if members else (),
        strong=strong,
        most_members=most_members,
        samples=samples,
        form=form,
        seed=seed,
    )
    fitting = EnsembleFit(_answers(data, split), options, say, _models(ranker, fuser, fuse_top, out))
    fitted = fitting.plan(goal)
    save_plan(fitted, out)
    typer.echo(f"{out}: {fitted.plan.version}")
    say_plan(fitted)
    write_report(
        report or out, "ensemble", body(fitting, fitted), markdown(fitting, fitted), PlanPlot(fitting, fitted).draw
    )


def show(folder: Annotated[Path, typer.Argument(help="The folder of a fitted plan.")]) -> None:
    """Show a fitted plan: rounds, members, when it stops, and expected figures."""
    from serve_app.ensemble.artefact import load_fitted

    fitted = load_fitted(folder)
    typer.echo(f"{fitted.plan.version}, fitted for {fitted.target or 'no target'}")
    say_plan(fitted)


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
    from serve_app.ensemble.fitting.plan import picking_of
    from serve_app.ensemble.fitting.shapes import replay, strengths_of
    from serve_app.ensemble.fitting.worth import Singles

    fitted = load_fitted(folder)
    dataset = _answers(data, split)
    if dataset.digest() == fitted.data.get("digest") and not force:
        raise ConfigError(f"{data}: {folder} was fitted on these answers; give others, or --force")
    for pool, model in fitted.plan.models.items():
        if pool in dataset.pools and dataset.pools[pool].model not in ("", model):
            raise DataError(f"{data}: {pool} is {dataset.pools[pool].model}, the plan was fitted on {model}")
    answers = Answers.of(dataset, form=fitted.plan.normalizer)
    plan = fitted.plan
    models = _models(
        _named(plan.ranker, folder) if plan.select == "ranker" else None,
        _named(plan.fuser, folder) if plan.fuse_top else None,
        plan.fuse_top,
        folder,
    )
    samples = max((call.samples for call in plan.members), default=1)
    picking = picking_of(dataset, answers, strengths_of(plan), models, say, samples)
    outcome = replay(plan, answers, str(fitted.data.get("strong", "")), picking)
    say_outcome(outcome)
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


def _named(name: str | None, folder: Path) -> Path | None:
    """Where a plan's ranker or fuser is: in the plan's own folder, if there is one of that name."""
    if name is None:
        return None
    if name.startswith("pool:"):
        raise ConfigError(f"{folder}: it fuses by the model of {name}: answers that it never wrote cannot be measured")
    return folder / name if (folder / name).is_dir() else Path(name)


def _models(ranker: Path | None, fuser: Path | None, fuse_top: int, plan: Path) -> "FitModels":
    """The ranker and fuser in these folders, with the names under which a plan in `plan` finds them."""
    from serve_app.ensemble.fitting.models import FitModels

    def name(folder: Path | None) -> str:
        if folder is None:
            return ""
        whole, own = folder.absolute(), plan.absolute()
        return str(whole.relative_to(own)) if whole.is_relative_to(own) else str(whole)

    found = FitModels(ranker_name=name(ranker), fuser_name=name(fuser), fuse_top=fuse_top)
    if ranker is not None:
        from serve_app.ensemble.ranking.pair_ranker import load_ranker

        found = replace(found, ranker=load_ranker(ranker))
    if fuser is not None:
        from serve_app.ensemble.fusing.gen_fuser import GenFuser

        found = replace(found, fuser=GenFuser.load(fuser))
    return found


group = new_group(help="Several answers to one query: fit whom to ask and how votes count, rank, fuse the best.")
group.command("fit")(fit)
group.command("evaluate")(evaluate)
group.command("show")(show)
group.command("rank")(rank)
group.command("train-ranker")(train_ranker)
group.command("fuse")(fuse)
group.command("train-fuser")(train_fuser)
