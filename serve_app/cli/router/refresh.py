"""`jethro router refresh`: retrain a router on recent traffic."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import REGISTRY, SetOption
from serve_app.cli.router.report import ELSEWHERE, RegistryOption, StrongOption, WeakOption
from serve_app.errors import ConfigError, writing

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset


def refresh(
    name: Annotated[str, typer.Argument(help="The registered router.")],
    log: Annotated[Path | None, typer.Option(help="A decision log that kept prompts (store.path).")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Instead: answers already collected and scored, as `jethro data`.")
    ] = None,
    feedback: Annotated[
        bool, typer.Option("--feedback", help="Learn from the callers' feedback in the log; call no model.")
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="With --log: how answers are scored, as `jethro data score`.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="With --log: the config whose pools answer.")] = None,
    set_: SetOption = None,
    url: Annotated[str | None, typer.Option("--url", help="With --log: call the pools of this endpoint.")] = None,
    samples: Annotated[int, typer.Option("-n", min=1, help="With --log: answers of each pool to each query.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="With --log: maximum number of queries, newest first.")] = 2000,
    out: Annotated[Path | None, typer.Option(help="Where collected answers are kept; default var/refresh.")] = None,
    margin: Annotated[float, typer.Option(min=0, max=1, help="Loss of quality that counts as not worse.")] = 0.01,
    swap: Annotated[bool, typer.Option("--swap/--no-swap", help="Serve the new version if it is not worse.")] = True,
    seed: Annotated[int, typer.Option(help="Draws the hold-out and the resamples.")] = 0,
    registry: RegistryOption = REGISTRY,
    weak: WeakOption = "small",
    strong: StrongOption = "large",
) -> None:
    """Retrain a router on fresh traffic; the new version serves only if it is not worse on held-out queries.

    \b
    Examples:
      jethro router refresh mine --log var/jethro.sqlite3 --config my.yaml --metric judge
      jethro router refresh mine --log var/jethro.sqlite3 --feedback
      jethro router refresh mine --data fresh.parquet --no-swap
    """
    from serve_app.data.validation import load_pair
    from serve_app.routing.registry import Registry
    from serve_app.training.refresh import RefreshPlan
    from serve_app.training.refresh import refresh as train_again

    if (log is None) == (data is None):
        raise ConfigError("give --log FILE, or --data FILE with answers that are collected and scored")
    if feedback and log is None:
        raise ConfigError("--feedback is read from a decision log: give --log FILE")
    folder = Registry(registry)
    folder.current(name)
    if data is not None:
        source, dataset = str(data), load_pair(data, weak, strong, to_learn=True)
    elif feedback:
        source, dataset = str(log), _with_feedback(log or Path(), (weak, strong))
    else:
        out = out or Path("var/refresh") / f"{name}-{datetime.now(UTC):%Y%m%d}.parquet"
        _collect(out, log, config, set_, url, samples, limit, metric)
        source, dataset = str(out), load_pair(out, weak, strong, to_learn=True)
    with writing(registry, ELSEWHERE):
        found = train_again(name, dataset, folder, RefreshPlan(source, margin, swap=swap, seed=seed), typer.echo)
    typer.secho(found.summary(), fg="green" if found.not_worse else "yellow")


def _with_feedback(log: Path, pools: tuple[str, str]) -> "Dataset":
    """Queries with feedback on the answers of both pools, and stated preferences."""
    from dataclasses import replace

    from serve_app.grading.feedback import read_feedback

    found = read_feedback(log)
    typer.echo(found.summary())
    dataset = found.dataset(pools)
    preferences = found.preferences()
    paired = dataset if pools == ("small", "large") else dataset.pair(*pools)
    return replace(paired, preferences=preferences if len(preferences) else None)


def _collect(
    out: Path, log: Path | None, config: str | None, set_: list[str] | None, url: str | None, samples: int,
    limit: int, metric: str | None,
) -> None:  # fmt: skip
    """Both pools' scored answers to the log's newest queries, in `out`; resumed after a kill."""
    from serve_app.cli.collect import collect

    if metric is None:
        raise ConfigError("give --metric: how the answers to the log's queries are scored; see `jethro data score`")
    collect(out=out, log=log, config=config, set_=set_, url=url, samples=samples, limit=limit, metric=metric)
