"""`jethro tune`: from prompts to a router for two models, with what it would save, on one page."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import SetOption, listed, parse_settings, say, write_report
from serve_app.errors import ConfigError, DataError, missing_extra, writing

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.data.collection.plan import LabeledQuery
    from serve_app.data.dataset import Dataset
    from serve_app.training.tuning import Tuned, TuningPlan

_PAIR = ("small", "large")
_PAGE = "tuning"
_METRIC = "number, choice, exact, token_f1, ..., or judge; default: by the right answers."
_OUT = "Folder of the answers and the page; the same command resumes there. Default var/tune/PROMPTS."


def tune(
    prompts: Annotated[Path, typer.Option(help="JSON lines, CSV or Parquet: prompt or messages; optional reference.")],
    config: Annotated[str, typer.Option(help="The config with the pools small and large.")] = "my.yaml",
    set_: SetOption = None,
    metric: Annotated[str | None, typer.Option(help=_METRIC)] = None,
    judge: Annotated[str, typer.Option(help="The pool that judges where the metric is judge.")] = "large",
    kinds: Annotated[str, typer.Option(help="Comma-separated kinds of router to compare.")] = "complexity,knn,mf",
    target: Annotated[str, typer.Option(help="What the threshold is chosen for: or strong-share=, cost=.")] = (
        "quality-drop=0.01"
    ),
    queries_per_month: Annotated[int, typer.Option(min=1, help="Your traffic, for what it saves.")] = 1_000_000,
    name: Annotated[str, typer.Option(help="Name of the router.")] = "tuned",
    out: Annotated[Path | None, typer.Option(help=_OUT)] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Serve the router without asking, if one is recommended.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Sampling temperature.")] = 0.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens per answer.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Maximum concurrent calls.")] = 16,
    seed: Annotated[int, typer.Option(help="Draws the parts, folds and resamples.")] = 0,
) -> None:
    """Find out whether a router pays off for your two models, and serve it if you like.

    Both models answer every prompt once. Kinds of router are compared and the best is trained on half of the prompts,
    its threshold is chosen on a fifth, and every figure is of the others. A router that does not beat random routing
    is not offered. A run that was stopped resumes, and pays for no answer twice.

    A row of the prompts is {"prompt": "...", "reference": "the right answer"}. Without right answers the large model
    judges the answers: a call for each answer.

    \b
    Examples:
      jethro tune --config my.yaml --prompts mine.jsonl
      jethro tune --config my.yaml --prompts mine.jsonl --target strong-share=0.3 --queries-per-month 200000 --yes
      jethro tune --config my.yaml --prompts open.jsonl --metric judge --judge large
    """
    from serve_app.config import load
    from serve_app.decision.target import Target
    from serve_app.routing.registry import Registry
    from serve_app.training.tuning import TuningPlan
    from serve_app.training.tuning import tune as find_router
    from serve_app.training.tuning_report import plot_tuning, summary, tuning_json, tuning_markdown

    settings = load(config, settings=parse_settings(set_ or []))
    folder = out or Path("var/tune") / prompts.name.partition(".")[0]
    plan = TuningPlan(listed(kinds), Target.parse(target), name, seed=seed)
    queries = _checked(settings, prompts, plan, folder)
    how = _Grading.of(metric, judge, queries)
    _check_grading(settings, how, queries)
    sampling = {"temperature": temperature, "max_tokens": max_tokens, "concurrency": concurrency}
    answers = _answers(settings, queries, folder, prompts.name, sampling)
    dataset = _graded(answers, how, settings, folder)
    registry = Registry(Path(settings.routing.registry), settings.routing.seed)
    with writing(folder, "make room or give another --out"):
        tuned = find_router(dataset, plan, folder, registry, lambda line: None if line.startswith(" ") else say(line))
    facts = (tuned, queries_per_month, how.metric)
    write_report(folder, _PAGE, tuning_json(*facts), tuning_markdown(*facts), lambda path: plot_tuning(tuned, path))
    typer.echo(f"\n{summary(tuned, queries_per_month)}\n\nthe page: {folder / f'{_PAGE}.md'}")
    if tuned.useful:
        _offer(registry, plan.name, tuned, settings, config, yes)


@dataclass(frozen=True)
class _Grading:
    """How answers are graded: by a metric, and by which pool where it is a judge."""

    metric: str
    judge: str

    @classmethod
    def of(cls, metric: str | None, judge: str, queries: "list[LabeledQuery]") -> "_Grading":
        from serve_app.grading import usual_metric

        if metric is None:
            metric, why = usual_metric([item.reference for item in queries])
            say(f"metric: {metric}: {why}; another with --metric")
        return cls(metric, judge)


def _checked(config: "Config", prompts: Path, plan: "TuningPlan", folder: Path) -> "list[LabeledQuery]":
    """The prompts. Raises what would otherwise be found once the answers are paid."""
    import numpy as np

    from serve_app.cli.before_collecting import check_out, check_request
    from serve_app.cli.collect import journal_of
    from serve_app.data.collection.plan import queries_from_file
    from serve_app.data.near_duplicates import THRESHOLD, compared, components
    from serve_app.routing.registry import RANDOM, check_own_name
    from serve_app.training.training import new_router
    from serve_app.training.tuning import FEWEST

    if missing := [name for name in ("sklearn", "pyarrow", "matplotlib") if find_spec(name) is None]:
        raise missing_extra(f"tuning needs {', '.join(missing)}", "train")
    check_own_name(plan.name)
    if not set(plan.kinds) - {RANDOM}:
        raise ConfigError("--kinds: name at least one kind besides random, which is always compared")
    for kind in plan.kinds:
        new_router(kind, {}, plan.seed)
    check_request(config, _PAIR, None, logprobs=False, instead=False)
    queries = queries_from_file(prompts)
    different = len(np.unique(components([compared(item.query) for item in queries], THRESHOLD)))
    if different < FEWEST:
        what = f"{len(queries):,} prompts" if different == len(queries) else f"{different:,} different prompts"
        raise DataError(f"{prompts}: {what} are too few to train, calibrate and measure: give {FEWEST} or more")
    answers = folder / "answers.parquet"
    check_out(answers, 1, journal_of(answers))
    return queries


def _check_grading(config: "Config", how: _Grading, queries: "list[LabeledQuery]") -> None:
    from serve_app.cli.before_collecting import check_references
    from serve_app.grading import JUDGES

    check_references(queries, how.metric)
    if how.metric in JUDGES:
        if how.judge not in config.pools:
            raise ConfigError(f"--judge {how.judge}: the config has the pools {', '.join(config.pools)}")
        if how.judge in _PAIR:
            say(f"note: {how.judge} judges its own answers too; a third pool of the config is a fairer --judge")


def _answers(
    config: "Config", queries: "list[LabeledQuery]", folder: Path, source: str, sampling: dict[str, Any]
) -> "Dataset":
    """Both pools' answers, one to each prompt; those that were paid before are not requested again."""
    from serve_app.cli.collect import collected, opened_pools
    from serve_app.data.collection.plan import CollectionPlan
    from serve_app.data.recorded import write_answers
    from serve_app.types import Sampling

    concurrency = sampling.pop("concurrency")
    plan = CollectionPlan(Sampling(**sampling), concurrency)
    say(f"collecting {len(_PAIR) * len(queries):,} answers of {', '.join(config.pools[name].model for name in _PAIR)}")
    out = folder / "answers.parquet"
    found = collected(queries, {"source": source}, plan, opened_pools(config, None, _PAIR), out, None)
    write_answers(found, out)
    if failed := found.about.get("failed"):
        say(f"{failed:,} prompts are left out, the first because of: {found.about['failures'][0]['reason']}")
    return found


def _graded(answers: "Dataset", how: _Grading, config: "Config", folder: Path) -> "Dataset":
    from serve_app.cli.data import graded
    from serve_app.data.recorded import write_answers
    from serve_app.grading import JUDGES
    from serve_app.numbers import fixed

    options = {"journal": folder / f"{how.metric}.journal"} if how.metric in JUDGES else {}
    found = graded(answers, how.metric, options, config, how.judge)
    write_answers(found, folder / "scored.parquet")
    means = (f"{name} {fixed(pool.quality.mean(), 3)}" for name, pool in found.pools.items())
    say(f"quality by {how.metric}: {', '.join(means)}")
    return found


def _offer(registry: Any, name: str, tuned: "Tuned", config: "Config", source: str, yes: bool) -> None:
    """Serve the router if the operator agrees; without a terminal, only say how."""
    command = f"jethro router use {name}@{tuned.version} --as-default --registry {registry.folder}"
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not yes and not (terminal and typer.confirm(f"\nServe it by default from {registry.folder}?")):
        typer.echo(f"to serve it: {command}")
        return
    with writing(registry.folder, "see routing.registry"):
        registry.use(name, tuned.version)
        registry.use_default(name)
    typer.echo(f"{name} is the default router of {registry.folder}; next: jethro serve {source}")
    routing = config.routing
    if routing.router is not None:
        say(f"note: routing.router is {routing.router!r} in {source}: remove the key, or write {name}")
    given = [key for key in ("threshold", "strong_share", "max_quality_drop") if getattr(routing, key) is not None]
    if given:
        say(f"note: routing.{given[0]} in {source} overrides the threshold found: remove the key")
