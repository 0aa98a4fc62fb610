"""Files of recorded streams, and what is refused."""

import gzip
import json

import numpy as np
import pytest

from benchmarks.online_cascade.stream import load
from serve_app.errors import DataError


def write(path, rows, pack=False):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if pack else text.encode())
    return path


def numbered(n=20):
    return [{"text": f"t{i}", "label": i % 3, "llm": -1 if i == 4 else i % 3} for i in range(n)]


@pytest.mark.parametrize("pack", [False, True])
def test_numbered_labels_get_names_and_unparsed_ones_are_kept(tmp_path, pack):
    path = write(tmp_path / ("s.jsonl.gz" if pack else "s.jsonl"), numbered(), pack)
    data = load(path, "llm", ("a", "b", "c"))
    assert (data.name, data.labels, len(data)) == ("s", ("a", "b", "c"), 20)
    assert data.expert[4] == -1
    assert data.gold.tolist() == [i % 3 for i in range(20)]


def test_labels_that_are_words_name_themselves(tmp_path):
    words = ["no", "yes"]
    rows = [{"text": "x", "label": words[i % 2], "llm": words[(i + 1) % 2] if i else None} for i in range(12)]
    data = load(write(tmp_path / "s.jsonl", rows), "llm")
    assert data.labels == ("no", "yes")
    assert data.expert.tolist()[:3] == [-1, 0, 1]


def test_halves_are_disjoint_and_seeds_only_reorder(tmp_path):
    data = load(write(tmp_path / "s.jsonl", numbered()), "llm")
    stream, other = data.halves()
    assert sorted(stream.texts + other.texts) == sorted(data.texts)
    assert sorted(stream.shuffled(1).texts) == sorted(stream.texts)
    assert stream.shuffled(1).texts != stream.shuffled(2).texts


def test_a_swap_moves_every_label_but_the_unparsed(tmp_path):
    data = load(write(tmp_path / "s.jsonl", numbered()), "llm").swapped(10)
    assert data.gold.tolist() == [i % 3 if i < 10 else (i + 1) % 3 for i in range(20)]
    assert np.array_equal(data.expert == -1, np.arange(20) == 4)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{"], "row 1"),
        ([{"text": "x"}], "row 1"),
        (numbered(3), "3 rows"),
        ([*numbered(), {"text": "x", "label": 1}], "'llm'"),
        ([*numbered(), {"text": "x", "label": 1, "llm": 7}], "labels"),
    ],
)
def test_what_is_no_stream_is_refused(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        load(write(tmp_path / "s.jsonl", rows), "llm")


def test_a_missing_file_and_a_wrong_number_of_names_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.jsonl", "llm")
    with pytest.raises(DataError, match="3 labels"):
        load(write(tmp_path / "s.jsonl", numbered()), "llm", ("a", "b"))
