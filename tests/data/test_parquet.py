""""""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Preferences
from serve_app.errors import DataError, DependencyError
from serve_app.types import Message, Query
from tests.data.samples import answers, sums

TURNS = (Message("system", "s"), Message("user", 'ü\n"q"', {"name": "eva", "tool_calls": [{"id": "1"}]}))


def rich() -> Dataset:
    """Two queries with all that a dataset can hold: turns with extras, references, unscored and untimed samples."""
    small = answers("w", [0.5, 0.25], 3)
    small.quality[1, 2] = np.nan
    timed = replace(small, latency_ms=np.array([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]]))
    queries = (Query(TURNS), Query((Message("user", "q"),)))
    pools = {"small": timed, "large": answers("s", [1.0, -7.5])}
    about = {"seed": 1, "quality_range": [-10, 10]}
    return Dataset(queries, pools, ("g", ""), about, ("a", "b"), (None, "42"))


def test_round_trip_keeps_everything_and_the_bytes(tmp_path: Path) -> None:
    one = rich()
    one.save(tmp_path / "deep" / "a.parquet")
    again = Dataset.load(tmp_path / "deep" / "a.parquet")
    assert [q.messages for q in again.queries] == [q.messages for q in one.queries]
    assert (again.groups, again.about, again.ids, again.references) == (one.groups, one.about, one.ids, one.references)
    for name, pool in one.pools.items():
        assert (again.pools[name].model, again.pools[name].texts) == (pool.model, pool.texts)
        np.testing.assert_array_equal(again.pools[name].quality, pool.quality)
    np.testing.assert_array_equal(again.weak.latency_ms, one.weak.latency_ms)  # type: ignore[arg-type]
    assert again.strong.latency_ms is None and again.digest() == one.digest()
    again.save(tmp_path / "b.parquet")
    assert (tmp_path / "deep" / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.parquet"]


def test_an_empty_dataset_is_one_too(tmp_path: Path) -> None:
    sums(5, seed=1).take([]).save(tmp_path / "a.parquet")
    assert len(Dataset.load(tmp_path / "a.parquet")) == 0


def test_others_can_read_the_columns(tmp_path: Path) -> None:
    rich().save(tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert rows[1]["small_quality"] == [0.25, 0.25, None] and rows[0]["large_latency_ms"] == [None]
    assert rows[1]["messages"] == [{"role": "user", "content": "q", "extra": None}]


def test_preferences_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    battles = Preferences((Query(TURNS),) * 3, ("a", "b", "c"), ("b", "c", "a"), np.array([1.0, 0.5, 0.0]))
    battles.save(tmp_path / "p.parquet")
    again = Preferences.load(tmp_path / "p.parquet")
    assert again.queries[0].messages == TURNS and (again.model_a, again.model_b) == (battles.model_a, battles.model_b)
    assert again.outcome.tolist() == [1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="file"):
        replace(rich(), preferences=battles).save(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"jethro-preferences, .*jethro-dataset"):
        Dataset.load(tmp_path / "p.parquet")


def test_battles_with_an_unknown_winner_are_named(tmp_path: Path) -> None:
    Preferences((Query(TURNS),) * 2, ("a", "b"), ("b", "c"), np.array([1.0, 0.5])).save(tmp_path / "p.parquet")
    change(tmp_path / "p.parquet", "winner", ["model_a", "nobody"])
    with pytest.raises(DataError, match=r"row 1 \(id '1'\): winner .*'nobody', .*model_a, tie, model_b"):
        Preferences.load(tmp_path / "p.parquet")


def change(path: Path, column: str, values: list[Any] | None, kind: Any = None) -> None:
    """Write the file again with one column replaced, or without it."""
    table = pq.read_table(path)
    at = table.column_names.index(column)
    if values is None:
        table = table.remove_column(at)
    else:
        table = table.set_column(at, column, pa.array(values, kind or table.schema.field(column).type))
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("id", ["a", "a"], "row 1: .*'a' .*row 0"),
        ("id", None, "column id .*missing"),
        ("group", ["g", None], "row 1 .id 'b'.: group .*null"),
        ("messages", [[], [{"role": "user", "content": "q"}]], "row 0 .id 'a'.: messages .*no message"),
        ("messages", [[{"role": "user", "content": "q"}], None], "row 1 .id 'b'.: messages .*no message"),
        ("messages", [[{"role": "boss", "content": "q"}]] * 2, "row 0 .id 'a'.: messages .*boss"),
        ("messages", [[{"role": "user", "content": None}]] * 2, "row 0 .id 'a'.: messages"),
        ("messages", [[{"role": "user", "content": "q", "extra": "{"}]] * 2, "extra .*JSON"),
        ("small_quality", None, "small_quality .*missing"),
        (
            "small_quality",
            [[1.0, 1.0, 1.0], [1.0, 1.0]],
            "row 1 .id 'b'.: small_quality .*2 samples, .*3",
        ),
        ("small_quality", [[1.0, 1.0], [1.0, 1.0]], "small_quality .*2 samples, small_text 3"),
        ("small_quality", [[1.0, 1.0, 1.0], []], "row 1 .id 'b'.: small_quality .*no sample"),
        ("small_quality", [[1.0, 1.0, 1.0], [1.0, np.inf, 1.0]], "row 1 .id 'b'.: small_quality .*finite"),
        ("small_cost_usd", [[1.0, None, 1.0], [1.0, 1.0, 1.0]], "row 0 .id 'a'.: small_cost_usd"),
        ("small_text", [["a", "b", None], ["a", "b", "c"]], "row 0 .id 'a'.: small_text .*text"),
        ("large_text", [["a"], None], "row 1 .id 'b'.: large_text .*no sample"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, column: str, values: list[Any] | None, message: str) -> None:
    path = tmp_path / "d.parquet"
    rich().save(path)
    change(path, column, values)
    with pytest.raises(DataError, match=message) as raised:
        Dataset.load(path)
    assert str(path) in raised.value.message


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    rich().save(path)
    change(path, "small_quality", ["good", "bad"], pa.string())
    with pytest.raises(DataError, match=r"small_quality .*string, .*list<"):
        Dataset.load(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "metadata, .*jethro-dataset"),
        ({"kind": "jethro-dataset", "format": 1}, "format 1, .*2"),
    ],
)
def test_files_of_others_are_refused(tmp_path: Path, header: dict[str, Any] | None, message: str) -> None:
    metadata = {b"jethro": json.dumps(header).encode()} if header else None
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata(metadata), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=message):
        Dataset.load(tmp_path / "d.parquet")


def test_a_cut_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    with pytest.raises(DataError, match="no such file"):
        Dataset.load(path)
    sums(50, seed=1).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="Parquet"):
        Dataset.load(path)


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.parquet"
    sums(5, seed=1).save(path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="disk full"):
        sums(9, seed=2).save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["d.parquet"]


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r'pip install "jethro\[train\]"'):
        sums(5, seed=1).save(tmp_path / "d.parquet")
