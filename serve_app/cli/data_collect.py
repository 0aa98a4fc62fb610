"""`jethro data collect`: asks every pool, with progress; goes on after a kill."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serve_app.cli.options import SetOption, parse_settings
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.learning.asked import Asked, How
    from serve_app.learning.dataset import Dataset
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
    from serve_app.learning.asked import How
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
        from serve_app.learning.quality import get_metric

        found = asyncio.run(get_metric(metric).score(found, lambda line: typer.echo(line, err=True)))
    found.save(out)
    _say(found, out, scored=metric is not None)


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
        from serve_app.learning.answering import pools_at, pools_here

        if self.url is None:
            return pools_here(self.config, self.pools)
        return pools_at(self.url, self.config, self.pools, caller_key())


def _asked(
    prompts: Path | None, log: Path | None, lab: int | None, half: Literal["learn", "measure"], seed: int,
    limit: int | None,
) -> "tuple[list[Asked], dict[str, object]]":  # fmt: skip
    """The queries, and where they come from."""
    from serve_app.learning.prompts import asked_of_file, asked_of_lab, asked_of_log

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
    from serve_app.learning.asked import asked_of
    from serve_app.learning.collect import collect
    from serve_app.learning.journal import Journal

    path = _journal(out)
    async with where.opened() as pools:
        with Journal(path, asked_of(asked, pools, how)) as journal:
            if journal.entries:
                typer.echo(f"going on: {len(journal.entries):,} calls are in {path}", err=True)
            return await collect(asked, pools, how, journal=journal, tell=Teller(), about=source)


def _say(found: "Dataset", out: Path, scored: bool) -> None:
    failed = found.about["failed"]
    if failed:
        typer.secho(f"{failed} queries are left out:", fg="yellow", err=True)
        for failure in found.about["failures"]:
            typer.echo(f"  {failure['id']} at {failure['pool']}: {failure['reason']}", err=True)
    spent = found.about["spent_usd"]
    typer.echo(f"{out}: {len(found):,} queries, {', '.join(found.pools)}, ${spent:.4f} spent")
    if not scored:
        typer.echo(f"  next: jethro data score {out} --metric exact")
