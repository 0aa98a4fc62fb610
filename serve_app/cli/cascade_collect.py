"""`jethro cascade collect`: asks every pool once, with log-probabilities, and grades; goes on after a kill."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve_app.cli.data import ConfigOption, PoolUrlOption, Where
from serve_app.cli.options import SetOption, listed
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.data.collection.journal import AnswerJournal
    from serve_app.data.collection.plan import Asked, How
    from serve_app.data.dataset import Dataset
    from serve_app.pools.base import Pool

_STOPPED = 130


def collect(
    out: Annotated[Path, typer.Option("--out", help="The JSON lines file to write.")],
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts or messages with a reference.")] = None,
    lab: Annotated[int | None, typer.Option(min=1, help="So many lab queries, unseen by the models.")] = None,
    half: Annotated[Literal["learn", "measure"], typer.Option(help="Which half of the lab's queries.")] = "learn",
    config: ConfigOption = None,
    set_: SetOption = None,
    url: PoolUrlOption = None,
    chain: Annotated[str | None, typer.Option(help="The config's pools, weakest first, with commas.")] = None,
    metric: Annotated[str | None, typer.Option(help="Grades answers against the reference: exact, number, ...")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Further answers of every pool but the last (agreement).")] = 0,
    verdicts: Annotated[int, typer.Option(min=0, help="Self-verifications of every pool but the last.")] = 0,
    router: Annotated[str, typer.Option(help="Gives the prior; '' for none.")] = "complexity",
    split: Annotated[str, typer.Option(help="Name of the split that these rows are.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="As the chain will be served.")] = 0.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the lab's queries and the samples.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many queries.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls open at once.")] = 16,
) -> None:
    """Record one graded answer of each pool to each query, with what its tokens tell: the data of `fit`.

    Every finished call is kept in a journal beside OUT, so that nothing is asked or paid twice. With --lab the models
    answer in this process, in batches, without an endpoint; queries that the router learned from are left out.

    \b
    Examples:
      jethro cascade collect --lab 6000 --out lab.jsonl
      jethro cascade collect --prompts mine.jsonl --config my.yaml --chain small,large --metric exact --out a.jsonl
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; give another --out, or move it away")
    if (prompts is None) == (lab is None):
        raise ConfigError("give one of --prompts FILE and --lab N: the queries to ask")
    from serve_app.data.collection.cascade_recording import write_rows

    names = listed(chain or "")
    if lab is not None:
        if url is not None or config is not None or temperature or verdicts or metric:
            raise ConfigError("--lab answers in here at temperature 0: leave out --url, --config, --metric, --verdicts")
        rows = _lab(lab, half, seed, samples, names or ("small", "large"), router)
    else:
        assert prompts is not None
        if metric is None:
            raise ConfigError("--metric is missing: exact, number, ... grades the answers (see `jethro data score`)")
        where = Where.of(config, set_, url, list(names))
        from serve_app.grading import get_metric

        get_metric(metric)  # one that is unknown is told of before anything is asked
        asking = _Asking(out, temperature, max_tokens, seed, concurrency, samples, verdicts, split, metric)
        rows = asking.rows(prompts, limit, where)
    if router:
        _add_priors(rows, router)
    write_rows(rows[:limit], out)
    _say(rows[:limit], out)


@dataclass(frozen=True, slots=True)
class _Asking:
    """The options of a collection from pools."""

    out: Path
    temperature: float
    max_tokens: int | None
    seed: int
    concurrency: int
    samples: int
    verdicts: int
    split: str
    metric: str

    def rows(self, prompts: Path, limit: int | None, where: Where) -> list[dict[str, Any]]:
        """Ask; Ctrl-C ends the program, and the same command goes on."""
        from serve_app.data.collection.plan import asked_of_file

        asked = asked_of_file(prompts, limit)
        try:
            return asyncio.run(_pools(asked, where, self))
        except KeyboardInterrupt:
            typer.echo("\nstopped; the same command goes on from here", err=True)
            raise typer.Exit(_STOPPED) from None


def _lab(
    n: int, half: Literal["learn", "measure"], seed: int, samples: int, models: tuple[str, ...], router: str
) -> list[dict[str, Any]]:
    from serve_app.data.collection.lab import LabPlan, lab_rows, unseen_queries
    from serve_app.lab import models_dir
    from serve_app.routing.registry import load_router

    there = sorted(path.name for path in models_dir().iterdir() if path.is_dir())
    if unknown := [name for name in models if name not in there]:
        raise ConfigError(f"--chain: the lab has no model {unknown[0]!r}; there are {', '.join(there)}")
    data = load_router(router).card.get("data", {}) if router else {}
    known: frozenset[str] = frozenset()
    if half == "learn" and data.get("source") == "lab":
        known = frozenset(i.prompt for i in unseen_queries(int(data["n"]), int(data["seed"]), "learn"))
    plan = LabPlan(n, half, seed, models, samples=samples, without=known)
    rows = lab_rows(models_dir(), plan, lambda line: typer.echo(line, err=True))
    if not rows:
        raise ConfigError(f"--lab {n}: all of them are queries that router {router} learned from; give a larger number")
    return rows


async def _pools(asked: "Sequence[Asked]", where: Where, asking: _Asking) -> list[dict[str, Any]]:
    from serve_app.cli.progress import Teller
    from serve_app.data.collection.cascade_recording import Means, RecordPlan, record
    from serve_app.data.collection.journal import AnswerJournal
    from serve_app.data.collection.plan import How, asked_of
    from serve_app.grading import get_metric
    from serve_app.types import Sampling

    def journal(
        name: str, items: "Sequence[Asked]", pools: "Mapping[str, Pool]", how: "How"
    ) -> "AbstractContextManager[AnswerJournal]":
        return AnswerJournal(asking.out.with_name(f"{asking.out.name}.{name}.journal"), asked_of(items, pools, how))

    async def grade(dataset: "Dataset") -> "Dataset":
        return await get_metric(asking.metric).score(dataset, lambda line: typer.echo(line, err=True))

    sampling = Sampling(max_tokens=asking.max_tokens, temperature=asking.temperature, seed=asking.seed)
    per_call = min(max(asking.samples, asking.verdicts, 1), where.config.limits.n)
    how = How(sampling, asking.concurrency, per_call)
    plan = RecordPlan(how, asking.samples, asking.verdicts, asking.split)
    async with where.opened() as pools:
        ordered = {name: pools[name] for name in (where.pools or tuple(pools))}
        return await record(asked, ordered, plan, Means(journal, grade, Teller()))


def _add_priors(rows: list[dict[str, Any]], router: str) -> None:
    from serve_app.data.records import Record, messages_of
    from serve_app.routing.registry import load_router
    from serve_app.types import Query

    queries = [Query(messages_of(Record(row, f"row {row['i']}"))) for row in rows]
    for row, score in zip(rows, load_router(router).router.score(queries).tolist(), strict=True):
        row["prior"] = round(float(score), 6)


def _say(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    typer.echo(f"{out}: {len(rows):,} queries")
    for name in rows[0]["m"]:
        right = sum(row["m"][name]["ok"] for row in rows) / len(rows)
        cost = sum(row["m"][name]["cost"] for row in rows) / len(rows)
        typer.echo(f"  {name}: quality {right:.4f}, {cost:.3g} USD a query")
    typer.echo(f"  next: jethro cascade fit --data {out} --target quality-drop=0.01 --out var/cascades/mine")
