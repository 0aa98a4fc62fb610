"""`jethro data`: the answers that routers and cascades are fitted on: collected, imported, scored, split and shown."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve_app.cli.collect import ConfigOption, OutOption, PoolUrlOption, collect, opened_pools
from serve_app.cli.options import SetOption, new_group, parse_settings, say
from serve_app.errors import ConfigError, DataError
from serve_app.numbers import fixed

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.data.dataset import Dataset

group = new_group(help="Collect, import, score, split and show the answers that routers and cascades are fitted on.")
group.command("collect")(collect)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A Parquet file of `jethro data`.")]


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, CSV (both may be gzipped) or Parquet.")],
    out: OutOption,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MODEL", help="A pool to import, and its model; default all found.")
    ] = None,
    keep_contaminated: Annotated[
        bool, typer.Option("--keep-contaminated", help="Import rows marked as contaminated too.")
    ] = False,
    quality_range: Annotated[
        tuple[float, float] | None, typer.Option(help="Scale of the quality if not 0 to 1.")
    ] = None,
    preferences: Annotated[
        bool, typer.Option("--preferences", help="Battles: prompt, model_a, model_b, winner.")
    ] = False,
    feedback: Annotated[bool, typer.Option("--feedback", help="FILE is a decision log: import its feedback.")] = False,
    score: Annotated[
        str | None,
        typer.Option(help="MixInstruct: the score that is the quality. Default: bartscore, or the only one."),
    ] = None,
) -> None:
    """Import recorded outcomes, or battles, of other programs, or the feedback in a decision log.

    A row is a query (prompt, messages or turns) with NAME_correct, NAME_score or NAME_quality of each pool, and maybe
    NAME_response, NAME_cost_usd, NAME_prompt_tokens, NAME_completion_tokens, NAME_latency_ms; group (or subject,
    category), reference, id and contaminated if there are. Of several turns no answers between them are known: the
    query is the user's side. Costs that are not recorded are 0, which is reported.

    MixInstruct's own files (a JSON list or JSON lines with candidates) are recognized: each model is a pool, NAME=MODEL
    chooses models, the score becomes the quality in [0, 1], and all scores are kept for rankers.

    \b
    Examples:
      jethro data import gsm8k.jsonl.gz --pool small=mixtral-8x7b --pool large=gpt-4 --out gsm8k.parquet
      jethro data import mine.csv --quality-range 1 10 --out mine.parquet
      jethro data import arena.jsonl --preferences --out battles.parquet
      jethro data import val.json --pool small=alpaca-native --pool large=vicuna-13b-1.1 --out mix.parquet
      jethro data import var/jethro.sqlite3 --feedback --preferences --out battles.parquet
    """
    from serve_app.data.mixinstruct import is_mixinstruct

    if (preferences or feedback) and (pool or keep_contaminated or quality_range or score):
        raise ConfigError("--preferences and --feedback take no --pool, --keep-contaminated, --quality-range, --score")
    if preferences:
        _save_battles(file, feedback, out)
        return
    if feedback:
        _save_scores(file, out)
        return
    if is_mixinstruct(file):
        if keep_contaminated:
            raise ConfigError("--keep-contaminated: rows of MixInstruct are not marked as contaminated; omit it")
        _save_candidates(file, _models(pool or []), score, quality_range, out)
        return
    if score is not None:
        raise ConfigError(f"--score: {file} has no candidates as MixInstruct's files do; its quality is in its columns")
    _save_outcomes(file, _models(pool or []), keep_contaminated, quality_range, out)


@group.command()
def score(
    file: FileArgument,
    metric: Annotated[str, typer.Option(help="exact, number, choice, lab, rouge_l, token_f1, bartscore, judge, ...")],
    out: Annotated[Path | None, typer.Option(help="Output file. Default: FILE itself.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the metric; repeat it for more.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="For judges: the config's pool that judges.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    url: PoolUrlOption = None,
) -> None:
    """Give every answer its quality by a metric.

    \b
    Examples:
      jethro data score lab.parquet --metric lab
      jethro data score qa.parquet --metric bartscore --option model=./bart-large-cnn --out scored.parquet
      jethro data score qa.parquet --metric judge --judge large --config my.yaml
    """
    import yaml

    from serve_app.config import load
    from serve_app.data.recorded import read_answers, write_answers

    options: dict[str, Any] = {k: yaml.safe_load(v) for k, v in parse_settings(option or []).items()}
    dataset = read_answers(file)

    settings = None if judge is None else load(config, settings=parse_settings(set_ or []))
    found = graded(dataset, metric, options, settings, judge, url)
    write_answers(found, out or file)
    for name, pool in found.pools.items():
        typer.echo(f"{name}: mean quality {fixed(pool.quality.mean(), 4)}")


@group.command()
def split(
    file: FileArgument,
    train: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of the training part.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Which split.")] = 0,
    by: Annotated[Literal["query", "group"], typer.Option(help="Keep whole groups on one side.")] = "query",
    threshold: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, help="Overlap from which texts are near-duplicates; 0.8.")
    ] = None,
) -> None:
    """Split into FILE.train.parquet and FILE.test.parquet; near-duplicates never straddle.

    Near-duplicates are texts whose character 5-grams overlap by at least --threshold (Jaccard), ignoring case,
    punctuation and spacing.

    \b
    Examples:
      jethro data split answers.parquet
      jethro data split mmlu.parquet --train 0.7 --by group     test on subjects that were not trained on
    """
    import numpy as np

    from serve_app.cli.start.next_step import say_next
    from serve_app.data.near_duplicates import THRESHOLD
    from serve_app.data.recorded import read_answers
    from serve_app.data.splitting import split_dataset

    shares = {"train": train, "test": 1 - train}
    dataset = read_answers(file)
    if not len(dataset):
        raise DataError(f"{file}: is empty; there is nothing to split")
    first: Path | None = None
    for name, part in split_dataset(dataset, shares, seed, threshold or THRESHOLD, by == "group").items():
        path = file.with_name(f"{file.name.removesuffix('.parquet')}.{name}.parquet")
        part.save(path)
        typer.echo(f"{path}: {len(part):,} queries")
        if name == "train" and len(part.pools) > 1 and not any(np.isnan(p.quality).any() for p in part.pools.values()):
            first = path
    if first is not None:
        say_next("router", "compare", data=first)


@group.command()
def show(
    file: FileArgument, examples: Annotated[int, typer.Option(min=0, help="How many queries to show.")] = 3
) -> None:
    """Show what a dataset holds: pools, quality with intervals, cost, win rates, an oracle, some queries.

    \b
    Examples:
      jethro data show answers.parquet
      jethro data show answers.parquet --examples 20
    """
    from serve_app.cli.endpoint import printable
    from serve_app.data.overview import overview
    from serve_app.data.recorded import read_answers

    for line in overview(read_answers(file), examples):
        typer.echo(printable(line))


def graded(
    dataset: "Dataset",
    metric: str,
    options: Mapping[str, Any],
    config: "Config | None",
    judge: str | None,
    url: str | None = None,
) -> "Dataset":
    """The answers with their quality. `judge`: the config's pool that judges, at `url` or as the config has it.

    Raises ConfigError for a judge that is missing, and what `Metric.score` raises.
    """
    from serve_app.grading import JUDGES, get_metric

    async def scored() -> "Dataset":
        if metric not in JUDGES:
            return await get_metric(metric, **options).score(dataset, say)
        if judge is None or config is None:
            raise ConfigError(f"metric {metric} needs --judge POOL, one of the config's pools")
        async with opened_pools(config, url, [judge]) as pools:
            return await get_metric(metric, pool=pools[judge], **options).score(dataset, say)

    return asyncio.run(scored())


def _save_battles(file: Path, feedback: bool, out: Path) -> None:
    if feedback:
        from serve_app.grading.feedback import read_feedback

        battles = read_feedback(file).preferences()
    else:
        from serve_app.data.importing import import_preferences
        from serve_app.data.mixinstruct import import_comparisons, is_mixinstruct

        battles = import_comparisons(file) if is_mixinstruct(file) else import_preferences(file)
    if not len(battles):
        raise DataError(f"{file}: no feedback says which of two answers is better; there is no battle")
    battles.save(out)
    typer.echo(f"{out}: {len(battles):,} battles of {len({*battles.model_a, *battles.model_b}):,} models")


def _save_outcomes(
    file: Path,
    models: Mapping[str, str],
    keep_contaminated: bool,
    quality_range: tuple[float, float] | None,
    out: Path,
) -> None:
    """Rows with columns of each pool."""
    from serve_app.data.importing import import_outcomes

    found = import_outcomes(file, models, keep_contaminated=keep_contaminated, quality_range=quality_range)
    found.save(out)
    dropped = found.about["contaminated_dropped"]
    typer.echo(f"{out}: {len(found):,} queries, {', '.join(found.pools)}; {dropped:,} contaminated rows dropped")
    if found.about["not_recorded"]:
        typer.echo(f"  not recorded, set to 0: {', '.join(found.about['not_recorded'])}")


def _save_candidates(
    file: Path,
    models: Mapping[str, str],
    score: str | None,
    quality_range: tuple[float, float] | None,
    out: Path,
) -> None:
    """MixInstruct's candidates, a pool a model."""
    from serve_app.data.mixinstruct import import_mixinstruct

    found = import_mixinstruct(file, models, score=score, quality_range=quality_range)
    found.save(out)
    about = found.about
    quality = f"quality {about['score_map']}" if "score_map" in about else "no scores: use `jethro data score`"
    typer.echo(f"{out}: {len(found):,} queries, {', '.join(found.pools)}; {quality}")
    notes = {
        "rows left out, without an answer of every model": about["left_out"],
        "candidates dropped, beyond the samples that most rows have": about["surplus_candidates"],
        "answers are empty texts": about["empty_texts"],
    }
    for what, count in notes.items():
        if count:
            typer.echo(f"  {count:,} {what}")
    if about["unknown_keys"]:
        typer.echo(f"  ignored keys: {', '.join(about['unknown_keys'])}")


def _save_scores(file: Path, out: Path) -> None:
    """Prompts that callers scored at both small and large."""
    from serve_app.grading.feedback import read_feedback

    log = read_feedback(file)
    say(log.summary())
    found = log.dataset()
    found.save(out)
    typer.echo(f"{out}: {len(found):,} prompts scored at {' and '.join(found.pools)}")


def _models(pairs: list[str]) -> dict[str, str]:
    """--pool NAME=MODEL; a name alone is its own model."""
    split_pairs = [(name, model or name) for name, _, model in (pair.partition("=") for pair in pairs)]
    if any(not name for name, _ in split_pairs):
        raise ConfigError("--pool: write NAME=MODEL, for instance --pool small=mixtral-8x7b")
    return dict(split_pairs)
