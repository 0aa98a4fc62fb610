"""Makes Grafana hold the folder, the data source and the dashboards; a second push finds nothing to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from serve_app.errors import ConfigError
from serve_app.observability.grafana.boards import Board, datasource_of, differences, with_datasource
from serve_app.observability.grafana.client import Grafana

Done = Literal["created", "updated", "unchanged"]
FOLDER_UID: Final = "jethro"


@dataclass(frozen=True, slots=True)
class PushTarget:
    """Where to push: the folder's title, the data source's name, and its URL if it may have to be created.

    `datasource_uid`: of a data source that is used without reading it, which a token may not be permitted to do.
    """

    folder: str = "Jethro"
    datasource: str = "Prometheus"
    prometheus_url: str | None = None
    datasource_uid: str | None = None


@dataclass(frozen=True, slots=True)
class PushResult:
    """What was done to one thing, or would be. `link`: where to see it."""

    what: str
    done: Done
    link: str = ""


def push(
    grafana: Grafana, boards: Sequence[Board], target: PushTarget, *, dry_run: bool = False
) -> Iterator[PushResult]:
    """Create or update what differs, one result each; with `dry_run` nothing is changed.

    A dashboard is stored over the version that was compared, so that no change made meanwhile is lost. Raises
    ConfigError for a data source that there is not and that cannot be created.
    """
    folder = grafana.folder(FOLDER_UID, target.folder)
    yield PushResult(f"folder {target.folder}", "unchanged" if folder else "created")
    if folder is None and not dry_run:
        folder = grafana.create_folder(FOLDER_UID, target.folder)
    folder_uid = str(folder["uid"]) if folder else FOLDER_UID
    source, done = _datasource(grafana, target, dry_run)
    yield PushResult(f"data source {target.datasource}", done)
    for board in boards:
        yield _pushed(grafana, with_datasource(board, target.datasource, source), source, folder_uid, dry_run)


def _datasource(grafana: Grafana, target: PushTarget, dry_run: bool) -> tuple[str, Done]:
    """Its uid, and whether it was created."""
    name, url = target.datasource, target.prometheus_url
    if target.datasource_uid is not None:
        return target.datasource_uid, "unchanged"
    found = grafana.datasource(name)
    if found is None:
        if url is None:
            raise ConfigError(
                f"Grafana has no data source {name!r}: name one with --datasource, or give --prometheus-url, where "
                "Grafana reaches Prometheus, to create it"
            )
        return ("" if dry_run else str(grafana.create_datasource(name, url)["uid"])), "created"
    if found.get("type") != "prometheus":
        raise ConfigError(f"the data source {name!r} is no Prometheus but {found.get('type')!r}: name another")
    if url is not None and str(found.get("url")).rstrip("/") != url.rstrip("/"):
        raise ConfigError(
            f"the data source {name!r} is for {found.get('url')}, not {url}: change it in Grafana, leave "
            "--prometheus-url out to use it as it is, or create another with --datasource"
        )
    return str(found["uid"]), "unchanged"


def _pushed(grafana: Grafana, board: Board, source: str, folder_uid: str, dry_run: bool) -> PushResult:
    what, link = f"dashboard {board['title']}", f"{grafana.url}/d/{board['uid']}"
    found = grafana.dashboard(board["uid"])
    if found is None:
        if not dry_run:
            grafana.save(board, folder_uid, None)
        return PushResult(what, "created", link)
    stored, about = found
    moved = about.get("folderUid") not in (None, folder_uid)
    if not moved and datasource_of(stored) == source and not differences(board, stored):
        return PushResult(what, "unchanged", link)
    if not dry_run:
        grafana.save(board, folder_uid, _version(stored))
    return PushResult(what, "updated", link)


def _version(stored: dict[str, Any]) -> int:
    return int(stored.get("version") or 0)
