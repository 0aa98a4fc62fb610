import gzip
from pathlib import Path

import numpy as np
import pytest

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset, PoolAnswers
from serve_app.types import Message, Query
from tests.learning.data import answers, sums


def test_round_trip_keeps_everything_and_the_bytes(tmp_path: Path) -> None:
    turns = (Message("system", "s"), Message("user", 'ü\n"q"', {"name": "eva"}))
    one = Dataset((Query(turns),), {"small": answers("w", [0.5], 3), "large": answers("s", [1.0])}, ("g",), {"seed": 1})
    one.save(tmp_path / "a.jsonl.gz")
    again = Dataset.load(tmp_path / "a.jsonl.gz")
    assert again.queries[0].messages == turns and again.groups == ("g",) and again.about == {"seed": 1}
    assert again.weak.quality.tolist() == [[0.5] * 3] and again.strong.model == "s"
    assert again.weak.texts == (("a", "a", "a"),) and again.digest() == one.digest()
    again.save(tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_win_rate_counts_all_pairs_of_samples() -> None:
    weak, strong = answers("w", [0.0], 2), answers("s", [0.0], 2)
    weak.quality[0], strong.quality[0] = [0.0, 0.6], [0.5, 1.0]
    one = Dataset((Query((Message("user", "q"),)),), {"small": weak, "large": strong}, ("",))
    assert one.strong_win_rate().tolist() == [0.75]
    assert one.strong_win_rate(margin=0.45).tolist() == [0.5]
    assert one.strong_win_rate(margin=1.0).tolist() == [0.0]


def test_take_keeps_rows_together_and_digest_tells_data_apart() -> None:
    whole = sums(20, seed=1)
    part = whole.take([3, 1])
    assert [q.text for q in part.queries] == [whole.queries[3].text, whole.queries[1].text]
    assert part.weak.quality[:, 0].tolist() == whole.weak.quality[[3, 1], 0].tolist()
    assert part.digest() != whole.digest() == sums(20, seed=1).digest()


def test_shapes_are_checked() -> None:
    good = answers("m", [1.0, 0.0])
    with pytest.raises(ValueError, match="finite"):
        answers("m", [float("inf")])
    with pytest.raises(ValueError, match="cost_usd"):
        PoolAnswers("m", good.texts, good.quality, good.cost_usd[:1], good.prompt_tokens, good.completion_tokens)
    with pytest.raises(ValueError, match="texts"):
        PoolAnswers("m", good.texts[:1], good.quality, good.cost_usd, good.prompt_tokens, good.completion_tokens)
    with pytest.raises(ValueError, match="samples"):
        PoolAnswers("m", (), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)))
    with pytest.raises(ValueError, match="answers of small"):
        Dataset((), {"small": good}, ())
    queries = (Query((Message("user", "a"),)), Query((Message("user", "b"),)))
    with pytest.raises(ValueError, match="1 different ids"):
        Dataset(queries, {"small": good}, ("", ""), ids=("x", "x"))


def test_a_pair_of_pools_goes_under_the_names_of_routing() -> None:
    query = Query((Message("user", "a"),))
    three = Dataset((query,), {"a": answers("A", [0.0]), "b": answers("B", [0.5]), "c": answers("C", [1.0])}, ("",))
    pair = three.pair("a", "c")
    assert (pair.weak.model, pair.strong.model) == ("A", "C")
    with pytest.raises(ConfigError, match="no pool 'd': it has a, b, c"):
        three.pair("a", "d")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "gzipped"),
        (gzip.compress(b"{}\n"), "not a dataset"),
        (gzip.compress(b""), "line 1: not JSON"),
        (gzip.compress(b'{"kind":"jethro-dataset","format":1,"models":{},"about":{}}\n[1]\n'), "line 2: must be"),
        (gzip.compress(b'{"kind":"jethro-dataset","format":1,"models":{},"about":{}}\n{}\n'), "incomplete"),
        (gzip.compress(b'{"kind":"jethro-dataset","format":2,"models":{},"about":{}}\n'), "format 1"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        Dataset.load(path)
    assert str(path) in raised.value.message


def test_a_cut_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    with pytest.raises(ConfigError, match="no such file"):
        Dataset.load(path)
    sums(50, seed=1).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cannot be read"):
        Dataset.load(path)
