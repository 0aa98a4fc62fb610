""""""

import gzip
import json

import numpy as np
import pytest

from serve_app.data.recorded import read
from serve_app.errors import DataError
from tests.cascade.recordings import made_up, row, write


def test_a_file_is_read_with_everything_it_tells(tmp_path):
    rows = [row(0), row(1, ok=0, tokens=[["4", -0.3, [["4", -0.3], ["5", -1.5]]]], samples=["4"], verdicts=[1, 0])]
    rows[1]["prior"] = 0.25
    found = read(write(tmp_path / "a.jsonl", rows))
    assert found.models == ("small", "large") and len(found) == 2
    assert found.ok.tolist() == [[1, 1], [0, 1]] and found.ok.dtype == np.float64
    assert found.cost_usd[0].tolist() == [1e-5, 1e-4] and found.latency_ms[0, 0] == 12
    judged = found.evidence[1][0]
    assert judged.logprobs[0].top == (("4", -0.3), ("5", -1.5)) and judged.samples == ("4",)
    assert judged.verdicts == (1.0, 0.0) and judged.prior == 0.25 and judged.query.text == "what is 1?"


def test_gzip_and_what_is_optional(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    bare = {"prompt": "p", "m": {"a": {"ok": 0.5, "cost": 0}}}
    path.write_bytes(gzip.compress(json.dumps(bare).encode()))
    found = read(path)
    assert np.isnan(found.confidence[0, 0]) and found.tokens_in[0, 0] == 0 and found.splits == ("",)
    assert found.served == ()


def test_an_infinite_confidence_is_the_most_extreme_finite_one(tmp_path):
    rows = [row(0, conf=float("-inf")), row(1, conf=-3.0), row(2, conf=float("nan"))]
    found = read(write(tmp_path / "a.jsonl", rows)).confidence[:, 0]
    assert found[:2].tolist() == [-3.0, -3.0] and np.isnan(found[2])


def test_models_splits_and_rows_can_be_taken():
    recorded = made_up(20, models=("a", "b", "c"))
    assert recorded.of(["c", "a"]).ok.tolist() == recorded.ok[:, [2, 0]].tolist()
    assert len(recorded.split("train")) == 10
    assert recorded.take([3, 1]).prompts == ("query 3", "query 1")
    assert recorded.take(recorded.ok[:, 0] > 2).ok.shape == (0, 3)
    with pytest.raises(DataError, match=r"'dev'.*test, train"):
        recorded.split("dev")
    with pytest.raises(DataError, match="'x'"):
        recorded.of(["a", "x"])
    with pytest.raises(DataError, match="one column"):
        recorded.of(["a", "a"])


def test_the_digest_sees_answers():
    assert made_up(10).digest() == made_up(10).digest() != made_up(10, seed=1).digest()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: .*JSON object"),
        ({"prompt": "p"}, "line 2: .*no answers"),
        ({"prompt": "p", "m": {"small": {"ok": 1, "cost": 0}}}, "line 2: .*large"),
        (row(1, ok=None), "line 2: small: ok .*None"),
        (row(1, ok=2), r"line 2: small: ok .*2.* \[0, 1\]"),
        (row(1, cost=-1), "line 2: small: cost .*-1"),
        (row(1, cost=10**400), r"line 2: small: cost .*1e\+15"),
        (row(1, cost=1e300), r"line 2: small: cost .*1e\+15"),
        (row(1, ms="fast"), "line 2: small: ms .*'fast'"),
        (row(1, tokens=[["4"]]), "line 2: small: tokens, samples, verdicts or prior"),
        ({**row(1), "prompt": ""}, "line 2: .*prompt"),
        ({**row(1), "prior": 7}, r"line 2: small: .*prior .*7 .*\[0, 1\]"),
        (row(1, verdicts=[1, -1]), r"line 2: small: .*-1 .*\[0, 1\]"),
        ({**row(1), "prior": "often"}, "line 2: small: tokens, samples, verdicts or prior"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, says):
    with pytest.raises(DataError, match=says):
        read(write(tmp_path / "a.jsonl", [row(0), bad]))


def test_answers_of_two_models_under_one_name_are_refused(tmp_path):
    rows = [row(0), row(1, model="old"), row(2, model="new")]
    with pytest.raises(DataError, match=r"line 3: small: .*model new, .*old"):
        read(write(tmp_path / "a.jsonl", rows))


def test_a_model_has_a_name(tmp_path):
    answers = row(0)["m"]
    with pytest.raises(DataError, match=r"line 1: .*without a name"):
        read(write(tmp_path / "a.jsonl", [{**row(0), "m": {"": answers["small"], "large": answers["large"]}}]))


def test_an_empty_and_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no row"):
        read(write(tmp_path / "a.jsonl", []))
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "b.jsonl")
