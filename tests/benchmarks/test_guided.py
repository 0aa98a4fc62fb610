"""The benchmark of structured output: what it draws, what it counts as a fault, and a small run to its files."""

import json
from pathlib import Path

import jsonschema
import pytest

from benchmarks import guided as bench
from serve_app.types import Chunk
from serve_app.wire.answers import ChoiceText


def test_schemas_are_valid_varied_and_the_same_every_time() -> None:
    drawn = [bench.query(i, 100)[1] for i in range(200)]
    for schema in drawn:
        jsonschema.Draft202012Validator.check_schema(schema)
    assert drawn == [bench.query(i, 100)[1] for i in range(200)]
    text = json.dumps(drawn)
    for word in ("anyOf", "enum", "const", "minItems", "pattern", "format", "minimum", "multipleOf", "minLength"):
        assert f'"{word}"' in text


def said(text: str = "", calls=(), finish: str = "stop") -> ChoiceText:
    choice = ChoiceText()
    choice.add(Chunk(0, text, (), (), finish, tuple(calls)))
    return choice


def test_faults_are_found() -> None:
    sent, _ = bench.query(0, 10)
    assert bench.fault(said("3"), sent, {"type": "integer"}) == ""
    assert "is not of type" in bench.fault(said('"x"'), sent, {"type": "integer"})
    assert bench.fault(said("{"), sent, {})
    tools, schema = bench.query(1, 10)
    assert "no call" in bench.fault(said("text"), tools, schema)
    call = {"index": 0, "function": {"name": "f", "arguments": "[]"}}
    assert "is not of type" in bench.fault(said(calls=[call], finish="tool_calls"), tools, {"type": "object"})


@pytest.mark.slow
def test_a_run_writes_its_row(tmp_path: Path) -> None:
    arguments = ["--schemas", "4", "--concurrency", "2", "--rounds", "1", "--max-tokens", "300", "--out", str(tmp_path)]
    assert bench.main([*arguments, "--model", "lab:small"]) == 0
    assert bench.main([*arguments, "--model", "lab:small", "--random", "--name", "noise"]) == 0
    rows = json.loads((tmp_path / "guided.json").read_text("utf-8"))["rows"]
    assert [row["model"] for row in rows] == ["lab:small", "noise"]
    assert all(row["finished"] == row["valid"] == 4 for row in rows)
    assert "| noise" in (tmp_path / "guided.md").read_text("utf-8")
