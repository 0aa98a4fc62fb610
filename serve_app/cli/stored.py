"""Copies of what an endpoint has stored: `jethro backup` and `jethro restore`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import SetOption, parse_settings, say

if TYPE_CHECKING:
    from serve_app.config import Config

ConfigOption = Annotated[str | None, typer.Option("--config", help="The config of the endpoint; without it `lab`.")]


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

    report = back_up(Places.of(read_config(config, set_)), folder)
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
    places = backups.Places.of(read_config(config, set_))
    kept = backups.restore(places, folder, time.time())
    typer.echo(f"restored: {report}")
    for path in kept:
        say(f"the present state is kept in {path}: delete it when it is no longer needed")


def read_config(source: str | None, set_: list[str] | None) -> "Config":
    """The config of a command's options. Raises ConfigError."""
    from serve_app.config import load

    return load(source, settings=parse_settings(set_ or []))
