"""What an endpoint has stored: `jethro decisions` exports and deletes, `jethro backup` and `jethro restore` copy."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from serve_app.cli.options import SetOption, new_group, parse_settings, say
from serve_app.errors import ConfigError, writing

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.erasure import Selection
    from serve_app.store.database import Database

group = new_group(help="Export and delete stored decisions, with prompts and feedback; the endpoint may be running.")

ConfigOption = Annotated[str | None, typer.Option("--config", help="The config of the endpoint; without it `lab`.")]
UserOption = Annotated[str | None, typer.Option(help="What requests named in `user` or `safety_identifier`.")]
TenantOption = Annotated[str | None, typer.Option(help="A tenant: a name in server.keys.")]
_LEARNER_S = 60.0
_OTHERS_S = 0.2
_PAGE = 500


@group.command()
def export(
    user: UserOption = None,
    tenant: TenantOption = None,
    id_: Annotated[str | None, typer.Option("--id", help="One decision.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; without it standard output.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write decisions with their feedback as JSON lines, oldest first.

    \b
    Examples:
      jethro decisions export --user u-1042 --config my.yaml --out u-1042.jsonl
      jethro decisions export --tenant acme > acme.jsonl
    """
    from contextlib import closing, nullcontext

    import orjson

    selection, tree = _selected(user, tenant, id_), _config(config, set_)
    after, count = (float("-inf"), ""), 0
    with closing(_database(tree)) as database, _for_owner(out) if out else nullcontext(sys.stdout.buffer) as file:
        while page := database.page(selection, after, _PAGE):
            file.writelines(orjson.dumps(record) + b"\n" for record in page)
            after, count = (page[-1]["created_s"], page[-1]["decision_id"]), count + len(page)
    say(f"{count:,} decisions")


@group.command()
def delete(
    user: UserOption = None,
    tenant: TenantOption = None,
    id_: Annotated[str | None, typer.Option("--id", help="One decision.")] = None,
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

    selection, tree = _selected(user, tenant, id_), _config(config, set_)
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


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, which the backup is written to.")],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Back up the decision log, the streams and the registered routers, while the endpoint runs or not; checked.

    \b
    Examples:
      jethro backup backups/monday --config my.yaml
    """
    from serve_app.backup import Places, back_up

    report = back_up(Places.of(_config(config, set_)), folder)
    typer.echo(f"{folder}: {report}")


def restore(
    folder: Annotated[Path, typer.Argument(help="The folder of a backup.")],
    config: ConfigOption = None,
    check: Annotated[bool, typer.Option("--check", help="Only check that the backup is whole.")] = False,
    set_: SetOption = None,
) -> None:
    """Put a backup in the place of the present state; stop the endpoint first. Present files are kept, renamed.

    Who was deleted since the backup stays deleted, as far as the present files remember it.

    \b
    Examples:
      jethro restore backups/monday --check
      jethro restore backups/monday --config my.yaml
    """
    from serve_app import backup as backups

    report = backups.check(folder)
    if check:
        typer.echo(f"{folder}: good: {report}")
        return
    places = backups.Places.of(_config(config, set_))
    kept = backups.restore(places, folder, time.time())
    typer.echo(f"restored: {report}")
    for path in kept:
        say(f"the present state is kept in {path}: delete it when it is no longer needed")


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


def _config(source: str | None, set_: list[str] | None) -> "Config":
    from serve_app.config import load

    return load(source, settings=parse_settings(set_ or []))


def _database(tree: "Config") -> "Database":
    from serve_app.store.database import Database

    if not Path(tree.store.path).is_file():
        raise ConfigError(f"{tree.store.path}: no such file; give --config with the endpoint's config")
    return Database(tree.store.path)
