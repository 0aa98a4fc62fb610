"""`jethro dashboards`: dashboards for Grafana, by its HTTP API or as files for its provisioning."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import new_group, say
from serve_app.errors import ConfigError, writing

if TYPE_CHECKING:
    from serve_app.observability.grafana.client import Grafana

group = new_group(help="Dashboards for Grafana: push, compare, fetch, or write them as files.")

GrafanaUrl = Annotated[str, typer.Option("--url", envvar="GRAFANA_URL", help="URL of Grafana.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="GRAFANA_TOKEN",
        show_default=False,
        help="Token of a service account. Better in the variable: other users of the machine see options.",
    ),
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", exists=True, dir_okay=False, help="Certificate authority of an https URL.")
]
FromOption = Annotated[
    Path | None, typer.Option("--from", metavar="FOLDER", help="Dashboards of this folder, not of the package.")
]
DEFAULT_GRAFANA = "http://127.0.0.1:3000"
EXIT_DIFFERENT = 1


@group.command()
def push(
    url: GrafanaUrl = DEFAULT_GRAFANA,
    token: TokenOption = None,
    folder: Annotated[str, typer.Option(help="Title of the folder in Grafana.")] = "Jethro",
    datasource: Annotated[str, typer.Option(help="Name of the Prometheus data source in Grafana.")] = "Prometheus",
    prometheus_url: Annotated[
        str | None,
        typer.Option(envvar="PROMETHEUS_URL", help="Where Grafana reaches Prometheus, to create the data source."),
    ] = None,
    datasource_uid: Annotated[
        str | None, typer.Option(help="Use this data source without reading it: enough for a token of the role Editor.")
    ] = None,
    from_: FromOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    ca: CaOption = None,
) -> None:
    """Create or update folder, data source and dashboards. A second push finds nothing to do.

    \b
    Examples:
      export GRAFANA_TOKEN=...
      jethro dashboards push --prometheus-url http://prometheus:9090
      jethro dashboards push --url https://grafana.example.com --datasource Mimir --dry-run
    """
    from serve_app.observability.grafana.boards import PACKAGED, read_boards
    from serve_app.observability.grafana.pushing import PushTarget
    from serve_app.observability.grafana.pushing import push as push_boards

    boards, target = read_boards(from_ or PACKAGED), PushTarget(folder, datasource, prometheus_url, datasource_uid)
    with _connected(url, token, ca) as grafana:
        for one in push_boards(grafana, boards, target, dry_run=dry_run):
            would = "would be " if dry_run and one.done != "unchanged" else ""
            typer.echo(f"{one.what}: {would}{one.done}" + (f"  {one.link}" if one.link else ""))


@group.command()
def diff(
    url: GrafanaUrl = DEFAULT_GRAFANA, token: TokenOption = None, from_: FromOption = None, ca: CaOption = None
) -> None:
    """Compare the dashboards in Grafana with ours. Exit code 1 if any differs or is missing.

    \b
    Examples:
      jethro dashboards diff
      jethro dashboards diff --from my-dashboards
    """
    from serve_app.observability.grafana.boards import PACKAGED, differences, read_boards

    boards, different = read_boards(from_ or PACKAGED), 0
    with _connected(url, token, ca) as grafana:
        for board in boards:
            found = grafana.dashboard(board["uid"])
            text = differences(board, found[0]) if found is not None else f"dashboard {board['title']}: not in Grafana"
            different += bool(text)
            if text:
                typer.echo(text)
    say(f"{different} of {len(boards)} dashboards differ" if different else f"{len(boards)} dashboards, all the same")
    if different:
        raise typer.Exit(EXIT_DIFFERENT)


@group.command()
def pull(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the files.")],
    url: GrafanaUrl = DEFAULT_GRAFANA,
    token: TokenOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    ca: CaOption = None,
) -> None:
    """Write the dashboards in Grafana that have the tag `jethro` as files, for `push --from` and for provisioning.

    \b
    Examples:
      jethro dashboards pull my-dashboards
    """
    from serve_app.observability.grafana.boards import TAG, write_board

    with _connected(url, token, ca) as grafana:
        uids = sorted(grafana.tagged(TAG))
        found = [one[0] for uid in uids if (one := grafana.dashboard(uid)) is not None]
    if not found:
        raise ConfigError(f"no dashboard in Grafana has the tag {TAG}: push some first")
    for board in found:
        if dry_run:
            typer.echo(f"dashboard {board['title']}: would be written")
            continue
        with writing(out, "name a folder that you can write"):
            out.mkdir(parents=True, exist_ok=True)
            typer.echo(f"written: {write_board(out, board)}")


@group.command()
def export(out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the files.")]) -> None:
    """Write the package's dashboards as files, for Grafana's file provisioning. No Grafana is called.

    \b
    Examples:
      jethro dashboards export grafana/dashboards
    """
    from serve_app.observability.grafana.boards import read_boards, write_board

    for board in read_boards():
        with writing(out, "name a folder that you can write"):
            out.mkdir(parents=True, exist_ok=True)
            typer.echo(f"written: {write_board(out, board)}")


@contextmanager
def _connected(url: str, token: str | None, ca: Path | None) -> "Iterator[Grafana]":
    """Grafana, closed afterwards. Raises ConfigError without a token."""
    from serve_app.observability.grafana.client import Grafana

    if not token:
        raise ConfigError("no Grafana token: export GRAFANA_TOKEN with one of a service account of the role Editor")
    grafana = Grafana(url, token, ca=str(ca) if ca else None)
    try:
        yield grafana
    finally:
        grafana.close()
