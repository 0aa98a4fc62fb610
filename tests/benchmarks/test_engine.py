"""The engine benchmark's counting, on the fake engine."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.engine.__main__ import speedup
from benchmarks.engine.endless import endless
from benchmarks.engine.runs import CASES, MAX_TOKENS, Rate, queries


def rate(concurrency: int, tokens: float) -> Rate:
    return Rate(concurrency, tokens, 1.0, 1.0, 1.0)


def test_speedup_is_32_over_1() -> None:
    assert speedup([rate(1, 100.0), rate(8, 400.0), rate(32, 800.0)]) == 8.0
    assert math.isnan(speedup([rate(1, 100.0)]))


def test_long_texts_are_sampled_with_seeds_of_their_own_and_lab_queries_greedy() -> None:
    long = queries(CASES[0], ["a", "b"])
    assert long(0).sampling.seed != long(2).sampling.seed
    assert long(2).text == "a"
    assert long(0).sampling.max_tokens == MAX_TOKENS
    assert queries(CASES[1], ["a"])(0).sampling.temperature == 0


def test_an_endless_model_keeps_everything_but_its_end(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "generation_config.json").write_text('{"eos_token_id": 2, "bos_token_id": 1}')
    found = json.loads((endless(source, tmp_path / "copy") / "generation_config.json").read_text())
    assert found["bos_token_id"] == 1
    assert found["eos_token_id"] > 10**6
    assert json.loads((source / "generation_config.json").read_text())["eos_token_id"] == 2


def test_no_model_to_copy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model there"):
        endless(tmp_path, tmp_path / "copy")
