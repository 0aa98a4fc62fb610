"""Dashboards as JSON: those of the package, those of a folder, and what of two of them must be equal.

The same files serve Grafana's file provisioning and its HTTP API. Each has a variable for the data source, so that it
fits any; what Grafana adds to a dashboard that it stores (number, version, the variable's value) is no part of it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import unified_diff
from pathlib import Path
from typing import Any, Final

from serve_app.errors import ConfigError, DataError, reading

Board = dict[str, Any]
PACKAGED: Final = Path(__file__).resolve().parent.parent / "dashboards"
TAG: Final = "jethro"
"""Of every dashboard of ours: by it they are found."""
_ADDED: Final = ("id", "version", "iteration")
_UID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


def read_boards(folder: Path = PACKAGED) -> list[Board]:
    """The dashboards of a folder, by file name. Raises ConfigError without any, DataError for a file that is none."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigError(f"{folder}: no dashboards: name a folder with .json files, or leave --from out")
    boards = [_read(file) for file in files]
    for key in ("uid", "title"):
        repeated = {one[key] for one in boards if sum(other[key] == one[key] for other in boards) > 1}
        if repeated:
            raise DataError(f"{folder}: two dashboards have the {key} {min(repeated)!r}: change one of them")
    return boards


def _read(file: Path) -> Board:
    with reading(file, "write it again with `jethro dashboards pull` or `export`", ValueError, error=DataError):
        board = json.loads(file.read_text("utf-8"))
        if not isinstance(board, dict) or not isinstance(board.get("title"), str):
            raise ValueError("no dashboard: it has no title")
        if not _UID.fullmatch(str(board.get("uid"))):
            raise ValueError("a dashboard's uid is 1 to 40 letters, digits, - and _")
        if not isinstance(board.get("panels"), list):
            raise ValueError("no dashboard: it has no panels")
    return board


def write_board(folder: Path, board: Board) -> Path:
    """Write a dashboard as a file of the folder, without what Grafana added; returns the file."""
    file = folder / f"{str(board['uid']).removeprefix('jethro-')}.json"
    file.write_text(text_of_board(board), "utf-8")
    return file


def text_of_board(board: Board) -> str:
    """The dashboard as its file has it."""
    return json.dumps(own(board), indent=2) + "\n"


def own(board: Board) -> Board:
    """The dashboard without what Grafana adds to one that it stores."""
    kept = deepcopy({key: value for key, value in board.items() if key not in _ADDED})
    for variable in (kept.get("templating") or {}).get("list") or []:
        variable.update({"current": {}, "options": []})
    return kept


def with_datasource(board: Board, name: str, uid: str) -> Board:
    """The dashboard showing this data source."""
    chosen = own(board)
    for variable in (chosen.get("templating") or {}).get("list") or []:
        if variable.get("type") == "datasource":
            variable["current"] = {"text": name, "value": uid, "selected": False}
    return chosen


def datasource_of(board: Board) -> str | None:
    """The uid of the data source that a stored dashboard shows; None for one that has none chosen."""
    for variable in (board.get("templating") or {}).get("list") or []:
        if variable.get("type") == "datasource":
            value = (variable.get("current") or {}).get("value")
            return str(value) if value else None
    return None


def differences(local: Board, stored: Board) -> str:
    """A unified diff from what is stored to the local one; empty if they show the same.

    A newer Grafana migrates what it stores to a newer schema: then what a reader sees is compared, not every key.
    """
    ours, theirs = own(local), own(stored)
    if ours.get("schemaVersion") != theirs.get("schemaVersion"):
        ours, theirs = _visible(ours), _visible(theirs)
    if ours == theirs:
        return ""
    before, after = (json.dumps(one, indent=2, sort_keys=True).splitlines() for one in (theirs, ours))
    uid = local["uid"]
    return "\n".join(unified_diff(before, after, f"grafana/{uid}", f"local/{uid}", lineterm=""))


def _visible(board: Board) -> Board:
    variables = (board.get("templating") or {}).get("list") or []
    return {
        **{key: board.get(key) or "" for key in ("title", "description", "refresh")},
        "tags": sorted(board.get("tags") or []),
        "time": board.get("time"),
        "variables": [{key: v.get(key) for key in ("name", "type", "query")} for v in variables],
        "panels": [_visible_panel(panel) for panel in all_panels(board)],
    }


def _visible_panel(panel: Mapping[str, Any]) -> Board:
    keys = ("type", "title", "gridPos")
    targets = [{k: t.get(k) or "" for k in ("expr", "legendFormat")} for t in panel.get("targets") or []]
    unit = ((panel.get("fieldConfig") or {}).get("defaults") or {}).get("unit")
    shown = {key: panel.get(key) for key in keys} | {"description": panel.get("description") or ""}
    return shown | {"unit": unit, "targets": targets}


def all_panels(board: Board) -> list[Board]:
    """Every panel, those in collapsed rows included."""
    found: list[Board] = []
    for panel in board.get("panels") or []:
        found += [panel, *(panel.get("panels") or [])]
    return found


def queries(boards: Sequence[Board]) -> list[tuple[str, str]]:
    """Every panel's queries, as (dashboard: panel, expression)."""
    return [
        (f"{board['title']}: {panel['title']}", target["expr"])
        for board in boards
        for panel in all_panels(board)
        for target in panel.get("targets") or []
    ]
