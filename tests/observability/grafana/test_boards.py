import json
from copy import deepcopy
from pathlib import Path

import pytest

from serve_app.errors import DataError
from serve_app.observability.grafana.boards import (
    PACKAGED,
    datasource_of,
    differences,
    own,
    queries,
    read_boards,
    text_of_board,
    with_datasource,
    write_board,
)

BOARD = read_boards()[0]


def test_files_of_the_package_are_as_they_are_written(tmp_path: Path) -> None:
    for file in PACKAGED.glob("*.json"):
        board = json.loads(file.read_text("utf-8"))
        assert file.name == write_board(tmp_path, board).name
        assert file.read_text("utf-8") == text_of_board(board)


def test_what_grafana_adds_is_no_difference() -> None:
    stored = with_datasource(BOARD, "Mimir", "m1") | {"id": 7, "version": 3, "iteration": 1700000000}
    assert datasource_of(stored) == "m1" and datasource_of(BOARD) is None
    assert differences(BOARD, stored) == "" and own(stored) == own(BOARD)
    assert "id" not in own(stored) and BOARD["templating"]["list"][0]["current"] == {}, "the original is untouched"


@pytest.mark.parametrize("schema", [BOARD["schemaVersion"], 42])
def test_a_query_that_differs_is_seen_in_any_schema(schema: int) -> None:
    stored = deepcopy(BOARD) | {"schemaVersion": schema}
    panel = next(p for p in stored["panels"] if p.get("targets"))
    panel["targets"][0]["expr"] = "vector(1)"
    found = differences(BOARD, stored)
    assert '-          "expr": "vector(1)"' in found.replace("            ", "          ") and "+++ local/" in found


def test_a_newer_schemas_own_keys_are_no_difference() -> None:
    stored = deepcopy(BOARD) | {"schemaVersion": 42, "preload": False}
    for panel in stored["panels"]:
        panel["pluginVersion"] = "13.0.0"
    assert differences(BOARD, stored) == ""
    assert differences(BOARD, stored | {"schemaVersion": BOARD["schemaVersion"]}) != ""


def test_queries_in_collapsed_rows_are_found() -> None:
    panel = {"type": "timeseries", "title": "Inside", "targets": [{"expr": "up"}]}
    board = {"title": "Mine", "panels": [{"type": "row", "title": "Row", "panels": [panel]}]}
    assert queries([board]) == [("Mine: Inside", "up")]


def test_two_of_one_title(tmp_path: Path) -> None:
    for uid in ("a", "b"):
        (tmp_path / f"{uid}.json").write_text(json.dumps({"uid": uid, "title": "Same", "panels": []}))
    with pytest.raises(DataError, match="two dashboards have the title 'Same'"):
        read_boards(tmp_path)
