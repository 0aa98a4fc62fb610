"""`jethro router`: train, measure, compare and calibrate routers on your own data, and choose which one serves."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serve_app.cli.options import REGISTRY, listed, new_group
from serve_app.cli.router import refresh, registry
from serve_app.cli.router.report import (
    ELSEWHERE,
    DataOption,
    ParamOption,
    RegistryOption,
    SkipOption,
    StrongOption,
    WeakOption,
    params,
    params_by_kind,
)
from serve_app.errors import ConfigError, writing

group = new_group(help="Train, measure, compare and calibrate routers; choose which one serves.")
group.command("list")(registry.list_routers)
group.command("show")(registry.show)
group.command("use")(registry.use)
group.command("refresh")(refresh.refresh)

_RUN = "Train again from this file: the run.json of an artefact, or YAML."


@group.command()
def train(
    kind: Annotated[str | None, typer.Argument(help="complexity, knn, mf, hybrid_prob, ...; not with --run.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Parquet file of `jethro data`.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Register it under this name; without it the kind, my_KIND where one ships.")
    ] = None,
    registry: RegistryOption = REGISTRY,
    set_: ParamOption = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same router. Default 0.")] = None,
    folds: Annotated[int | None, typer.Option(min=1, help="Number of folds; 1: a 20 % hold-out.")] = None,
    target: Annotated[str | None, typer.Option(help="Target of the threshold. Default quality-drop=0.01.")] = None,
    weak: Annotated[str | None, typer.Option(help="The data set's weak pool. Default small.")] = None,
    strong: Annotated[str | None, typer.Option(help="The data set's strong pool. Default large.")] = None,
    preferences: Annotated[Path | None, typer.Option(help="Further battles, for mf, sw_ranking and the like.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help=_RUN)] = None,
    test: Annotated[Path | None, typer.Option("--test", help="Refuse to train on any of these queries.")] = None,
    use: Annotated[bool | None, typer.Option("--use/--no-use", help="Serve it at once; default: if it is new.")] = None,
) -> None:
    """Train a router on answers of your own models, and register it with threshold, figures and run.

    \b
    Examples:
      jethro router train complexity --data answers.parquet
      jethro router train knn --data answers.parquet --set neighbours=40 --name mine
      jethro router train --run var/routers/mine/knn-1a2b3c4d/run.json      the same again
    """
    from dataclasses import replace

    from serve_app.cli.router.report import say_registered
    from serve_app.data.validation import check_leak, load_pair
    from serve_app.routing.registry import Registry, own_name
    from serve_app.training.training import data_digest, register
    from serve_app.training.training import train as fit

    given = {"data": data, "seed": seed, "folds": folds, "target": target, "weak": weak, "strong": strong}
    spec = _training_run(kind, run, {**given, "preferences": preferences}, set_ or [])
    battles = None if spec.preferences is None else Path(spec.preferences)
    dataset = load_pair(Path(spec.data), spec.weak, spec.strong, battles, to_learn=True)
    digest = data_digest(dataset)
    _note_changes(run, spec.digest, digest)
    if test is not None:
        check_leak(dataset, load_pair(test, spec.weak, spec.strong))
    trained = fit(replace(spec, digest=digest), dataset, typer.echo)
    folder = Registry(registry)
    with writing(registry, ELSEWHERE):
        version = register(trained, dataset, folder, name, use)
    say_registered(folder, name or own_name(spec.kind), version, "queries that it was not fitted on")


def _training_run(kind: str | None, run: Path | None, given: dict[str, Any], pairs: list[str]) -> Any:
    """What to train: from a file, or from the options. Raises ConfigError for neither or both."""
    from dataclasses import replace

    from serve_app.training.training import TrainingRun, default_folds

    chosen: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in given.items() if v is not None}
    set_params = params(pairs)
    if run is not None:
        if kind is not None:
            raise ConfigError(f"KIND ({kind}) and --run contradict each other: leave one out")
        spec = TrainingRun.read(run)
        return replace(spec, params={**spec.params, **set_params}, **chosen)
    if kind is None or "data" not in chosen:
        raise ConfigError("give KIND and --data FILE, or --run FILE")
    chosen.setdefault("folds", default_folds(kind))
    return TrainingRun(kind, params=set_params, **chosen)


def _note_changes(run: Path | None, before: str, now: str) -> None:
    """Say what keeps a repeated training from giving the same router. Raises ConfigError if the data changed."""
    from serve_app.training.training import changed_libraries

    if run is None:
        return
    if before and before != now:
        raise ConfigError(f"{run}: the data are not those of that run (digest {now}, then {before}); remove `digest`")
    if changed := changed_libraries(run):
        typer.echo(f"note: other libraries than then, so the version may differ: {', '.join(changed)}")


@group.command()
def evaluate(
    router: Annotated[str, typer.Argument(help="NAME, NAME@VERSION, or the folder of a saved router.")],
    data: DataOption,
    registry: RegistryOption = REGISTRY,
    threshold: Annotated[list[float] | None, typer.Option(help="Further thresholds to report; repeat it.")] = None,
    skip_seen: SkipOption = False,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json, .md and .png.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the bootstrap resamples.")] = 0,
    weak: WeakOption = "small",
    strong: StrongOption = "large",
) -> None:
    """Measure a router on queries that it has not learned from: quality, cost, calibration, with intervals.

    \b
    Examples:
      jethro router evaluate complexity --data test.parquet
      jethro router evaluate mine@knn-1a2b3c4d --data test.parquet --threshold 0.3 --out report
    """
    from serve_app.cli.options import write_report
    from serve_app.cli.router.report import note_other_models
    from serve_app.data.validation import load_pair
    from serve_app.routing.registry import Registry
    from serve_app.training.artefacts import open_router, unlearned
    from serve_app.training.evaluation import evaluate as measure
    from serve_app.training.evaluation import scored_queries
    from serve_app.training.report import evaluation_markdown, plot_evaluation

    dataset = load_pair(data, weak, strong)
    found = open_router(Registry(registry), router)
    dataset = unlearned(found, dataset, str(data), skip_seen, typer.echo)
    registered = found.registered
    note_other_models(registered.models, dataset)
    thresholds = [registered.threshold, *(threshold or [])]
    scores = registered.router.score(dataset.queries)
    evaluation = measure((registered.name, registered.version), scored_queries(scores, dataset), thresholds, seed=seed)
    typer.echo(evaluation_markdown(evaluation), nl=False)
    if out is not None:
        models = {"weak": dataset.weak.model, "strong": dataset.strong.model}
        body = {**evaluation.to_json(), "data": {"digest": dataset.digest(), "models": models, **dataset.about}}
        text = evaluation_markdown(evaluation)
        write_report(out, "evaluation", body, text, lambda path: plot_evaluation(evaluation, path))


@group.command()
def compare(
    data: DataOption,
    kinds: Annotated[str, typer.Option(help="Comma-separated kinds; random is always included.")] = "complexity,knn,mf",
    folds: Annotated[int, typer.Option(min=2, help="Each query is scored by a router fitted on the others.")] = 5,
    set_: ParamOption = None,
    target: Annotated[str, typer.Option(help="Also report each kind at this target.")] = "quality-drop=0.01",
    out: Annotated[Path | None, typer.Option(help="Output folder; an interrupted comparison resumes there.")] = None,
    seed: Annotated[int, typer.Option(help="Draws folds and resamples, and seeds the routers.")] = 0,
    weak: WeakOption = "small",
    strong: StrongOption = "large",
    preferences: Annotated[Path | None, typer.Option(help="Further battles, for mf, sw_ranking and the like.")] = None,
) -> None:
    """Cross-validate kinds of router on your own data; a table, a plot, and which one to run.

    \b
    Examples:
      jethro router compare --data answers.parquet --kinds complexity,knn,mf
      jethro router compare --data answers.parquet --kinds knn --set knn.neighbours=40 --out report
    """
    from serve_app.cli.options import write_report
    from serve_app.cli.start.next_step import after_comparing
    from serve_app.data.validation import load_pair
    from serve_app.decision.target import Target
    from serve_app.training.comparison import ComparisonPlan, recommend
    from serve_app.training.comparison import compare as cross_validate
    from serve_app.training.report import comparison_json, comparison_markdown, plot_comparison

    names = list(listed(kinds))
    plan = ComparisonPlan(names, folds, seed, Target.parse(target), params_by_kind(set_ or [], names))
    dataset = load_pair(data, weak, strong, preferences, to_learn=True)
    folder = out or Path("var/compare") / dataset.digest()[:12]
    candidates, refused = cross_validate(dataset, plan, folder, typer.echo)
    text = comparison_markdown(candidates, refused, plan)
    typer.echo(text, nl=False)
    body = comparison_json(candidates, refused, plan, dataset)
    shown = [c.evaluation for c in candidates if c.kind != "random"]
    write_report(folder, "comparison", body, text, lambda path: plot_comparison(shown, path))
    if (kind := recommend(candidates).kind) is not None:
        chosen = {"weak": weak, "strong": strong, "seed": seed, "target": target, "preferences": preferences}
        after_comparing(kind, data, {**chosen, "params": plan.params.get(kind, {})})


@group.command()
def calibrate(
    router: Annotated[str, typer.Argument(help="NAME, NAME@VERSION, or the folder of a saved router.")],
    data: DataOption,
    target: Annotated[str, typer.Option(help="strong-share=0.4, cost=0.0002 (USD a query) or quality-drop=0.01.")],
    guarantee: Annotated[
        Literal["expectation", "ltt"] | None,
        typer.Option(help="Promise the quality drop: in expectation, or with confidence 1 - delta (Learn then Test)."),
    ] = None,
    delta: Annotated[float, typer.Option(help="With ltt: the risk that the promise is broken.")] = 0.1,
    registry: RegistryOption = REGISTRY,
    skip_seen: SkipOption = False,
    use: Annotated[bool, typer.Option("--use", help="Serve the new version at once.")] = False,
    weak: WeakOption = "small",
    strong: StrongOption = "large",
) -> None:
    """Find the threshold for a target on queries that the router has not learned from; saved as a new version.

    \b
    Examples:
      jethro router calibrate mine --data fresh.parquet --target strong-share=0.4
      jethro router calibrate mine --data fresh.parquet --target quality-drop=0.02 --guarantee ltt --delta 0.1
    """
    from serve_app.cli.router.report import note_other_models, say_registered
    from serve_app.data.validation import load_pair
    from serve_app.decision.target import Guarantee, Target, quality_range
    from serve_app.routing.registry import Registry, own_name
    from serve_app.training.artefacts import open_router, unlearned
    from serve_app.training.training import recalibrate

    aim = Target.parse(target)
    dataset = load_pair(data, weak, strong)
    folder = Registry(registry)
    found = open_router(folder, router)
    note_other_models(found.registered.models, dataset)
    dataset = unlearned(found, dataset, str(data), skip_seen, typer.echo)
    promise = None if guarantee is None else Guarantee(guarantee, delta, quality_range(dataset.about))
    with writing(registry, ELSEWHERE):
        version = recalibrate(found, dataset, aim, promise, folder)
        if use:
            folder.use(own_name(found.name), version)
    say_registered(folder, own_name(found.name), version, "calibration queries")
