"""`jethro decisions tail | show | export | delete`: what an endpoint has decided, from its file or over HTTP."""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from serve_app.cli.decisions.source import (
    LatencyOption,
    LogUrlOption,
    ModelOption,
    PoolOption,
    Record,
    RouterOption,
    SinceOption,
    StatusOption,
    StrategyOption,
    TenantOption,
    UntilOption,
    UserOption,
    filters,
    opened,
)
from serve_app.cli.options import SetOption, new_group, say, show_json
from serve_app.cli.stored import ConfigOption, read_config
from serve_app.errors import ConfigError, writing

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.erasure import Selection
    from serve_app.store.database import Database

group = new_group(help="Read, export and delete stored decisions; the endpoint may be running.")

IdOption = Annotated[str | None, typer.Option("--id", help="One decision.")]
_LEARNER_S = 60.0
_OTHERS_S = 0.2
_FOLLOW_S = 1.0
_LOOK_BACK = 500
"""New decisions between two looks that are shown; of more, the newest."""


@group.command()
def tail(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="Newest decisions to show.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new ones as they arrive, until Ctrl+C.")] = False,
    since: SinceOption = None,
    until: UntilOption = None,
    pool: PoolOption = None,
    strategy: StrategyOption = None,
    status: StatusOption = None,
    tenant: TenantOption = None,
    user: UserOption = None,
    router: RouterOption = None,
    model: ModelOption = None,
    min_latency_ms: LatencyOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    url: LogUrlOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show the latest decisions, one a line: time, pool, score and threshold, cost, latency, id.

    \b
    Examples:
      jethro decisions tail --config my.yaml
      jethro decisions tail -f --pool large --url http://127.0.0.1:8000
      jethro decisions tail --since 1h --status failed --json
    """
    from serve_app.cli.decisions.lines import decision_line, json_line

    given = filters(
        since=since,
        until=until,
        pool=pool,
        strategy=strategy,
        status=status,
        tenant=tenant,
        user=user,
        router=router,
        model=model,
        min_latency_ms=min_latency_ms,
    )
    line = json_line if json else decision_line
    with opened(url, read_config(config, set_).store.path) as source:
        shown = source.newest(given, count)
        _print(line(record) for record in reversed(shown))
        seen = {str(record["decision_id"]) for record in shown}
        while follow:
            time.sleep(_FOLLOW_S)
            fresh = [r for r in source.newest(given, _LOOK_BACK) if str(r["decision_id"]) not in seen]
            if shown:  # older ones than the first line are no news
                fresh = [r for r in fresh if r["created_s"] >= shown[-1]["created_s"]]
            _print(line(record) for record in reversed(fresh))
            seen |= {str(record["decision_id"]) for record in fresh}


@group.command()
def show(
    decision_id: Annotated[str, typer.Argument(help="The id in x-jethro-decision-id.")],
    json: Annotated[bool, typer.Option("--json", help="Print the whole record as JSON.")] = False,
    url: LogUrlOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show a decision with everything that was considered, its result, and its feedback.

    \b
    Examples:
      jethro decisions show c49af37d26b6ab09a7b0d4ab --config my.yaml
      jethro decisions show c49af37d26b6ab09a7b0d4ab --json --url http://127.0.0.1:8000
    """
    from serve_app.cli.decisions.lines import decision_text

    with opened(url, read_config(config, set_).store.path) as source:
        record = source.one(decision_id)
    if json:
        show_json(record)
    else:
        typer.echo(decision_text(record))


@group.command()
def export(
    user: UserOption = None,
    tenant: TenantOption = None,
    id_: IdOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    pool: PoolOption = None,
    strategy: StrategyOption = None,
    status: StatusOption = None,
    router: RouterOption = None,
    model: ModelOption = None,
    min_latency_ms: LatencyOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write: .parquet or .jsonl; without it JSON lines on stdout.")
    ] = None,
    form: Annotated[
        Literal["jsonl", "parquet"] | None, typer.Option("--format", help="By default that of the file's name.")
    ] = None,
    url: LogUrlOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write decisions with their feedback, oldest first, as JSON lines or a Parquet file; without filters, all.

    \b
    Examples:
      jethro decisions export --user u-1042 --config my.yaml --out u-1042.jsonl
      jethro decisions export --since 7d --out week.parquet
      jethro decisions export --tenant acme > acme.jsonl
    """
    given = filters(
        user=user,
        tenant=tenant,
        since=since,
        until=until,
        pool=pool,
        strategy=strategy,
        status=status,
        router=router,
        model=model,
        min_latency_ms=min_latency_ms,
    )
    form = form or ("parquet" if out is not None and out.suffix == ".parquet" else "jsonl")
    if form == "parquet" and out is None:
        raise ConfigError("a Parquet file cannot be written to standard output: give --out FILE.parquet")
    if id_ is not None and given:
        raise ConfigError("--id names one decision: leave out the other filters")
    with opened(url, read_config(config, set_).store.path) as source:
        pages: Iterable[Sequence[Record]] = source.pages(given) if id_ is None else [[source.one(id_)]]
        if form == "parquet":
            from serve_app.data.decision_table import write_decisions

            assert out is not None
            count = write_decisions(out, pages)
        else:
            count = _write_lines(out, pages)
    say(f"{count:,} decisions")


@group.command()
def delete(
    user: UserOption = None,
    tenant: TenantOption = None,
    id_: IdOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Delete decisions with prompts and feedback, and the texts in the streams' journals, and overwrite their bytes.

    Requests that are answered now are deleted too. The command ends when the bytes are gone from the files.

    \b
    Examples:
      jethro decisions delete --user u-1042 --config my.yaml
      jethro decisions delete --tenant acme --config my.yaml
      jethro decisions delete --id c49af37d26b6ab09a7b0d4ab
    """
    from contextlib import closing

    from serve_app.store.file import quarantined
    from serve_app.streams.erasing import erase_texts

    selection, tree = _selected(user, tenant, id_), read_config(config, set_)
    streams = Path(tree.streams.folder)
    with closing(_database(tree)) as database:
        gone = database.erase(selection, time.time())
        typer.echo(f"{tree.store.path}: {gone.decisions:,} decisions and {gone.feedback:,} pieces of feedback deleted")
        _rewrite(database)
    if streams.is_dir():
        running = erase_texts(streams, selection, _LEARNER_S, tree.store.keep_days)
        typer.echo(f"{streams}: texts erased from the journals" + (", by the Learner that runs" if running else ""))
    for file in quarantined(Path(tree.store.path)):
        say(f"left as it is: {file}: damaged, may hold such texts; delete it unless you want to recover it")


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)
    sys.stdout.flush()


def _write_lines(out: Path | None, pages: Iterable[Sequence[Record]]) -> int:
    from contextlib import nullcontext

    import orjson

    count = 0
    with _for_owner(out) if out else nullcontext(sys.stdout.buffer) as file:
        for page in pages:
            file.writelines(orjson.dumps(record) + b"\n" for record in page)
            count += len(page)
    return count


def _for_owner(path: Path) -> BinaryIO:
    """A new file that no other user can read: it holds prompts."""
    with writing(path, "give another with --out"):
        path.unlink(missing_ok=True)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _rewrite(database: "Database") -> None:
    """Until no byte is left: by this process, or by a Gateway that has begun to."""
    while database.pending:
        result = database.vacuum(time.time())
        if result == "failed":
            raise ConfigError(
                "the rows are deleted and overwritten, but the file could not be rewritten (see above): make room on "
                "its disk, and repeat the command; an endpoint that runs tries again by itself"
            )
        if result in ("idle", "waits"):
            time.sleep(_OTHERS_S)


def _selected(user: str | None, tenant: str | None, id_: str | None) -> "Selection":
    from serve_app.erasure import Selection

    if user is None and tenant is None and id_ is None:
        raise ConfigError("give --user, --tenant or --id: whose decisions")
    return Selection(tenant, user, id_)


def _database(tree: "Config") -> "Database":
    from serve_app.store.database import Database

    if not Path(tree.store.path).is_file():
        raise ConfigError(f"{tree.store.path}: no such file; give --config with the endpoint's config")
    return Database(tree.store.path)
