"""`jethro lab`: the embedded models, built, measured and sampled."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from serve_app.cli.options import new_group
from serve_app.errors import ConfigError

group = new_group(help="Build, measure and sample the embedded models.")


class LabModel(StrEnum):
    """The models that the lab can build."""

    TINY = "tiny"
    SMALL = "small"
    LARGE = "large"
    NUMBERS = "numbers"
    LETTERS = "letters"
    LISTS = "lists"


_Models = Annotated[
    list[LabModel] | None, typer.Option("--model", help="A model; repeat it for more. Default: small and large.")
]
_Folder = Annotated[Path | None, typer.Option("--dir", help="Folder of the models. Default: the package's own.")]
_BOTH = [LabModel.SMALL, LabModel.LARGE]


@group.command()
def build(
    model: _Models = None,
    folder: _Folder = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same models.")] = 0,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Bound each model's training by time.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming an interrupted run.")] = False,
) -> None:
    """Train the lab models from scratch, with progress; an interrupted run resumes.

    \b
    Examples:
      jethro lab build --dir my-models                        both, about two and a half hours on one core
      jethro lab build --model small --minutes 5 --dir try    one, five minutes
    """
    from serve_app.lab import models_dir
    from serve_app.lab.build import build as train

    try:
        train(folder or models_dir(), seed, models=model or _BOTH, resume=not fresh, minutes=minutes, report=typer.echo)
    except ValueError as error:
        raise ConfigError(f"{error}") from error


@group.command("eval")
def evaluate(
    n: Annotated[int, typer.Option("-n", min=1, help="Queries, balanced over tasks and sizes.")] = 2000,
    seed: Annotated[int, typer.Option(help="Which queries.")] = 1,
    split: Annotated[Literal["unseen", "train"], typer.Option(help="Held-out queries or trained ones.")] = "unseen",
    model: _Models = None,
    folder: _Folder = None,
) -> None:
    """Measure how often the lab models answer exactly right, by task and size.

    \b
    Examples:
      jethro lab eval                         both models, 2000 unseen queries
      jethro lab eval -n 200 --model small    a quick look
    """
    from serve_app.lab import models_dir
    from serve_app.lab.evaluate import evaluate as measure

    try:
        report = measure(folder or models_dir(), n, seed, split, models=model or _BOTH)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"{error}") from error
    typer.echo(report.table())
    typer.echo(f"\n{report.summary()}")


@group.command()
def sample(
    n: Annotated[int, typer.Option("-n", min=1, help="How many queries.")] = 10,
    seed: Annotated[int, typer.Option(help="Which queries.")] = 0,
    split: Annotated[Literal["unseen", "train"], typer.Option(help="Held-out queries or trained ones.")] = "unseen",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print queries of the lab's tasks with their answers.

    \b
    Examples:
      jethro lab sample
      jethro lab sample -n 1000 --json > queries.jsonl
    """
    from dataclasses import asdict

    import orjson

    from serve_app.lab.sample import sample as draw

    for item in draw(n, seed, split):
        typer.echo(
            orjson.dumps(asdict(item)).decode()
            if json
            else f"{item.task:<12}{item.size:<24}{item.prompt}  ->  {item.answer}"
        )


@group.command()
def router(
    folder: _Folder = None,
    kind: Annotated[Literal["complexity", "mf"], typer.Option(help="Which of the routers that ship.")] = "complexity",
    out: Annotated[
        Path | None, typer.Option(help="Output folder. Default: the folder of the routers that ship.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=100, help="Number of queries for both models.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same router.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Keep the answers in this file, or read them from it.")] = None,
) -> None:
    """Train a router that ships on the lab models' own answers, and calibrate its threshold.

    \b
    Examples:
      jethro lab router                                            retrain the default router
      jethro lab router --kind mf -n 16000                         retrain RouteLLM's matrix factorisation
      jethro lab router --out mine && jethro serve --set routing.router=mine
    """
    from serve_app.lab import models_dir
    from serve_app.routing.registry import artefacts_dir
    from serve_app.training.lab_router import LabRouterPlan, train

    try:
        train(folder or models_dir(), out or artefacts_dir() / kind, LabRouterPlan(kind, n, seed, data), typer.echo)
    except FileNotFoundError as error:
        raise ConfigError(f"{error}") from error


@group.command()
def scope(
    out: Annotated[Path | None, typer.Option(help="Output file. Default: the package's own.")] = None,
    n: Annotated[int, typer.Option("-n", min=1000, help="Texts to learn from, half of them other texts.")] = 40_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same file.")] = 0,
) -> None:
    """Train the classifier of the lab's tasks against other texts, by which decisions warn of the latter.

    \b
    Examples:
      jethro lab scope                    after a change of the tasks; half a minute
      jethro lab scope --out scope.json
    """
    from serve_app.lab.scope import fit_scope, scope_file

    fit_scope(n, seed, typer.echo).save(out or scope_file())


@group.command()
def ensemble(
    out: Annotated[Path, typer.Option(help="Folder for answers, ranker and fuser.")],
    folder: _Folder = None,
    n: Annotated[int, typer.Option("-n", min=200, help="Number of queries for every member.")] = 24_000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the ranker at most.")] = 8,
    fuser_epochs: Annotated[int, typer.Option(min=1, help="Epochs of the fuser at most.")] = 12,
    seed: Annotated[int, typer.Option(help="The same seed gives the same models.")] = 0,
) -> None:
    """Train the ranker and the fuser of the lab's ensemble on its members' own answers; a killed run resumes.

    The folder is a plan that calls every member; the answers' split `plan` is left for fitting others.

    \b
    Examples:
      jethro lab ensemble --out var/lab
      jethro ensemble fit var/lab/answers.parquet --split plan --ranker var/lab/ranker --out var/lab/plan
    """
    from serve_app.lab import models_dir
    from serve_app.training.lab_ensemble import LabEnsembleRecipe, train

    try:
        train(folder or models_dir(), out, LabEnsembleRecipe(n, seed, epochs, fuser_epochs), typer.echo)
    except FileNotFoundError as error:
        raise ConfigError(f"{error}") from error


@group.command()
def adapters(
    task: Annotated[list[str] | None, typer.Option("--task", help="A task; repeat it for more. Default: all.")] = None,
    folder: _Folder = None,
    out: Annotated[Path | None, typer.Option(help="Output folder. Default: the package's own.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same adapters.")] = 0,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on. Default: each adapter's own.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming an interrupted run.")] = False,
) -> None:
    """Train the task adapters (LoRA) of the lab's small model, with progress; an interrupted run resumes.

    \b
    Examples:
      jethro lab adapters --out my-adapters                 all, some minutes each on one core
      jethro lab adapters --task reverse --out my-adapters
    """
    from serve_app.lab import adapters_dir, models_dir
    from serve_app.tuning.lab import ADAPTERS, LabTuning, build_adapters

    try:
        tuning = LabTuning(seed, tokens, resume=not fresh)
        build_adapters(folder or models_dir(), out or adapters_dir(), tuning, task or list(ADAPTERS), typer.echo)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"{error}") from error
