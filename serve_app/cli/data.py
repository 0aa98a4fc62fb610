"""`jethro data`: the answers that routers learn from, collected, brought in, scored, split and looked at.

`jethro data collect`: asks every pool, with progress; goes on after a kill.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve_app.cli.options import SetOption, new_group, parse_settings
from serve_app.errors import ConfigError, DataError

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.data.collection.plan import Asked, How
    from serve_app.data.dataset import Dataset
    from serve_app.pools.base import Pool

_STOPPED = 130
"""A shell's exit code of a program that Ctrl-C ended."""
OutOption = Annotated[Path, typer.Option("--out", help="The Parquet file to write.")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Profile or YAML file with the pools and their prices; default lab.")
]
PoolUrlOption = Annotated[
    str | None, typer.Option("--url", help="Ask the pools behind this endpoint; without it engines run in here.")
]


def collect(
    out: OutOption,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines, CSV or Parquet: prompt or messages, id.")] = None,
    log: Annotated[Path | None, typer.Option(help="A decision log that kept prompts (store.path).")] = None,
    lab: Annotated[int | None, typer.Option(min=1, help="So many lab queries, unseen by the models.")] = None,
    half: Annotated[Literal["learn", "measure"], typer.Option(help="Which half of the lab's queries.")] = "learn",
    config: ConfigOption = None,
    set_: SetOption = None,
    url: PoolUrlOption = None,
    pool: Annotated[list[str] | None, typer.Option(help="One of the config's pools; default all.")] = None,
    samples: Annotated[int, typer.Option("-n", min=1, help="Answers of each pool to each query.")] = 10,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the lab's queries and, if given, seeds the sampling.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many queries (the log's newest).")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls open at once.")] = 16,
    per_call: Annotated[int | None, typer.Option(min=1, help="Answers a call; default the config's limits.n.")] = None,
    metric: Annotated[str | None, typer.Option(help="Score by it at the end; the lab's own for --lab.")] = None,
) -> None:
    """Ask every pool every query for several answers; after a kill the same command goes on.

    Every finished call is kept in OUT.journal, so that nothing is asked or paid twice; the file is made at the end.
    A query that a pool refuses is left out and told. A sample's cost is that of an answer asked alone; completion
    tokens of a call with several answers count in equal parts. The key of --url is read from JETHRO_API_KEY.

    \b
    Examples:
      jethro data collect --lab 500 --out lab.parquet                       the lab's models, in this process
      jethro data collect --prompts mine.jsonl --config my.yaml --out a.parquet
      jethro data collect --log var/jethro.sqlite3 --limit 2000 --url http://127.0.0.1:8000 --out a.parquet
    """
    from serve_app.data.collection.plan import How
    from serve_app.types import Sampling

    if out.exists() and not _journal(out).exists():
        raise ConfigError(f"{out}: is there already, without its journal; give another --out, or move it away")
    asked, source = _asked(prompts, log, lab, half, seed or 0, limit)
    where = Where.of(config, set_, url, pool)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, n=samples, seed=seed)
    how = How(sampling, concurrency, min(samples, per_call or where.config.limits.n))
    try:
        found = asyncio.run(_collect(asked, source, where, how, out))
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on from here", err=True)
        raise typer.Exit(_STOPPED) from None
    metric = metric or ("lab" if lab else None)
    if metric:
        from serve_app.grading import get_metric

        found = asyncio.run(get_metric(metric).score(found, lambda line: typer.echo(line, err=True)))
    found.save(out)
    _say_collected(found, out, scored=metric is not None)


@dataclass(frozen=True, slots=True)
class Where:
    """Which pools of a config to ask (all, if none is named), and whether behind an endpoint."""

    config: "Config"
    url: str | None
    pools: tuple[str, ...]

    @classmethod
    def of(cls, config: str | None, set_: list[str] | None, url: str | None, pools: list[str] | None) -> "Where":
        """From the options of a command. Raises ConfigError."""
        from serve_app.config import load

        return cls(load(config, settings=parse_settings(set_ or [])), url, tuple(pools or ()))

    def opened(self) -> "AbstractAsyncContextManager[dict[str, Pool]]":
        """The pools, while the block runs."""
        from serve_app.config import caller_key
        from serve_app.data.collection.pools import pools_at, pools_here

        if self.url is None:
            return pools_here(self.config, self.pools)
        return pools_at(self.url, self.config, self.pools, caller_key())


def _asked(
    prompts: Path | None, log: Path | None, lab: int | None, half: Literal["learn", "measure"], seed: int,
    limit: int | None,
) -> "tuple[list[Asked], dict[str, object]]":  # fmt: skip
    """The queries, and where they come from."""
    from serve_app.data.collection.plan import asked_of_file, asked_of_lab, asked_of_log

    if sum(source is not None for source in (prompts, log, lab)) != 1:
        raise ConfigError("give one of --prompts FILE, --log FILE and --lab N: the queries to ask")
    if prompts is not None:
        return asked_of_file(prompts, limit), {"source": prompts.name}
    if log is not None:
        return asked_of_log(log, limit), {"source": log.name}
    return asked_of_lab(lab or 0, seed, half)[:limit], {"source": "lab", "split": f"unseen, {half} half", "lab": lab}


def _journal(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


async def _collect(asked: "list[Asked]", source: "dict[str, object]", where: Where, how: "How", out: Path) -> "Dataset":
    from serve_app.cli.progress import Teller
    from serve_app.data.collection.collect import collect
    from serve_app.data.collection.journal import AnswerJournal
    from serve_app.data.collection.plan import asked_of

    path = _journal(out)
    async with where.opened() as pools:
        with AnswerJournal(path, asked_of(asked, pools, how)) as journal:
            if journal.entries:
                typer.echo(f"going on: {len(journal.entries):,} calls are in {path}", err=True)
            return await collect(asked, pools, how, journal=journal, tell=Teller(), about=source)


def _say_collected(found: "Dataset", out: Path, scored: bool) -> None:
    failed = found.about["failed"]
    if failed:
        typer.secho(f"{failed} queries are left out:", fg="yellow", err=True)
        for failure in found.about["failures"]:
            typer.echo(f"  {failure['id']} at {failure['pool']}: {failure['reason']}", err=True)
    spent = found.about["spent_usd"]
    typer.echo(f"{out}: {len(found):,} queries, {', '.join(found.pools)}, ${spent:.4f} spent")
    if not scored:
        typer.echo(f"  next: jethro data score {out} --metric exact")


group = new_group(help="Collect, bring in, score, split and look at the answers that routers learn from.")
group.command("collect")(collect)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A Parquet file of `jethro data`.")]
_JUDGES = ("judge", "judge_pairwise")


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, CSV (both may be gzipped) or Parquet.")],
    out: OutOption,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MODEL", help="A pool to take, and its model; default all found.")
    ] = None,
    keep_contaminated: Annotated[
        bool, typer.Option("--keep-contaminated", help="Take rows marked as contaminated too.")
    ] = False,
    quality_range: Annotated[
        tuple[float, float] | None, typer.Option(help="The scale of the quality, where it is not 0 to 1.")
    ] = None,
    preferences: Annotated[
        bool, typer.Option("--preferences", help="Battles: prompt, model_a, model_b, winner.")
    ] = False,
    feedback: Annotated[
        bool, typer.Option("--feedback", help="FILE is a decision log: what callers said of answers.")
    ] = False,
) -> None:
    """Bring in recorded outcomes, or battles, of other programs, or the feedback in a decision log.

    A row is a query (prompt, messages or turns) with NAME_correct, NAME_score or NAME_quality of each pool, and maybe
    NAME_response, NAME_cost_usd, NAME_prompt_tokens, NAME_completion_tokens, NAME_latency_ms; group (or subject,
    category), reference, id and contaminated if there are. Of several turns no answers between them are known: the
    query is the user's side. Costs that nobody recorded are 0, and are told so.

    \b
    Examples:
      jethro data import gsm8k.jsonl.gz --pool small=mixtral-8x7b --pool large=gpt-4 --out gsm8k.parquet
      jethro data import mine.csv --quality-range 1 10 --out mine.parquet
      jethro data import arena.jsonl --preferences --out battles.parquet
      jethro data import var/jethro.sqlite3 --feedback --preferences --out battles.parquet
    """
    from serve_app.data.importing import ImportOptions, import_outcomes

    if (preferences or feedback) and (pool or keep_contaminated or quality_range):
        raise ConfigError("--preferences and --feedback take no --pool, --keep-contaminated or --quality-range")
    if preferences:
        _save_battles(file, feedback, out)
        return
    if feedback:
        _save_scores(file, out)
        return
    found = import_outcomes(file, ImportOptions(_models(pool or []), keep_contaminated, quality_range))
    found.save(out)
    dropped = found.about["contaminated_dropped"]
    typer.echo(f"{out}: {len(found):,} queries, {', '.join(found.pools)}; {dropped:,} contaminated rows dropped")
    if found.about["not_recorded"]:
        typer.echo(f"  not recorded, and so 0: {', '.join(found.about['not_recorded'])}")


@group.command()
def score(
    file: FileArgument,
    metric: Annotated[str, typer.Option(help="exact, number, choice, lab, rouge_l, token_f1, bartscore, judge, ...")],
    out: Annotated[Path | None, typer.Option(help="Where to write; without it the file itself.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the metric; repeat it for more.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="For judges: which of the config's pools judges.")] = None,
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

    from serve_app.data.dataset import Dataset
    from serve_app.grading import get_metric

    options: dict[str, Any] = {k: yaml.safe_load(v) for k, v in parse_settings(option or []).items()}
    dataset = Dataset.load(file)

    async def scored() -> Dataset:
        if metric not in _JUDGES:
            return await get_metric(metric, **options).score(dataset, _say)
        if judge is None:
            raise ConfigError(f"metric {metric} needs --judge POOL, one of the config's pools")
        async with Where.of(config, set_, url, [judge]).opened() as pools:
            return await get_metric(metric, pool=pools[judge], **options).score(dataset, _say)

    found = asyncio.run(scored())
    found.save(out or file)
    for name, pool in found.pools.items():
        typer.echo(f"{name}: mean quality {pool.quality.mean():.4f}")


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

    Near-duplicates are texts whose character 5-grams overlap by at least --threshold (Jaccard), case, punctuation and
    spacing aside.

    \b
    Examples:
      jethro data split answers.parquet
      jethro data split mmlu.parquet --train 0.7 --by group     test on subjects that were not trained on
    """
    from serve_app.data.dataset import Dataset
    from serve_app.data.near_duplicates import THRESHOLD
    from serve_app.data.splitting import split_dataset

    shares = {"train": train, "test": 1 - train}
    dataset = Dataset.load(file)
    if not len(dataset):
        raise DataError(f"{file}: is empty; there is nothing to split")
    for name, part in split_dataset(dataset, shares, seed, threshold or THRESHOLD, by == "group").items():
        path = file.with_name(f"{file.name.removesuffix('.parquet')}.{name}.parquet")
        part.save(path)
        typer.echo(f"{path}: {len(part):,} queries")


@group.command()
def show(
    file: FileArgument,
    examples: Annotated[int, typer.Option(min=0, help="How many queries to show.")] = 3,
) -> None:
    """Show what a dataset holds: pools, quality with intervals, cost, win rates, an oracle, some queries.

    \b
    Examples:
      jethro data show answers.parquet
      jethro data show answers.parquet --examples 20
    """
    from serve_app.cli.endpoint import printable
    from serve_app.data.dataset import Dataset
    from serve_app.data.overview import overview

    for line in overview(Dataset.load(file), examples):
        typer.echo(printable(line))


def _save_battles(file: Path, feedback: bool, out: Path) -> None:
    if feedback:
        from serve_app.grading.feedback import read_feedback

        battles = read_feedback(file).preferences()
    else:
        from serve_app.data.importing import import_preferences

        battles = import_preferences(file)
    if not len(battles):
        raise DataError(f"{file}: nobody said which of two answers was better; there is no battle")
    battles.save(out)
    typer.echo(f"{out}: {len(battles):,} battles of {len({*battles.model_a, *battles.model_b}):,} models")


def _save_scores(file: Path, out: Path) -> None:
    """Prompts that callers scored at both small and large."""
    from serve_app.grading.feedback import read_feedback

    log = read_feedback(file)
    _say(log.told())
    found = log.dataset()
    found.save(out)
    typer.echo(f"{out}: {len(found):,} prompts scored at {' and '.join(found.pools)}")


def _models(pairs: list[str]) -> dict[str, str]:
    """--pool NAME=MODEL; a name alone is its own model."""
    split_pairs = [(name, model or name) for name, _, model in (pair.partition("=") for pair in pairs)]
    if any(not name for name, _ in split_pairs):
        raise ConfigError("--pool: write NAME=MODEL, for instance --pool small=mixtral-8x7b")
    return dict(split_pairs)


def _say(line: str) -> None:
    typer.echo(line, err=True)
