from pathlib import Path

import numpy as np
import pytest

from serve_app.learning import history as history_module
from serve_app.learning.features import Reading, read
from serve_app.learning.history import History, common_words
from serve_app.types import Message, Query


def reading(text: str) -> Reading:
    return read(Query((Message("user", text),)))


WORDS = ("what", "is", "reverse", "plus")


def probability(history: History, text: str, level: int) -> float:
    return float(1 / (1 + np.exp(-history.logits(reading(text))[level])))


def test_numbers_and_rare_words_are_alike_by_their_length() -> None:
    history = History(WORDS)
    a, b, c = (history.signatures(reading(t)) for t in ("what is 12 + 3?", "what is 45 + 6", "what is 123 + 6?"))
    assert a[0] != b[0] and a[1:] == b[1:] and a[1] != c[1] and a[3] == c[3]
    x, y = (history.signatures(reading(t)) for t in ("reverse stone", "reverse apple"))
    assert x[0] != y[0] and x[1:] == y[1:]
    same, other = (history.signatures(reading(t)) for t in ("what is 7 + 5?", "7+5"))
    assert same[0] == other[0] and same[1] != other[1]


def test_seen_often_leans_on_itself_and_seen_seldom_on_the_coarser() -> None:
    texts = ["what is 1 + 1?"] * 200 + ["what is 22 + 1?"] * 200 + ["what is 333 + 1?"]
    outcomes = np.array([0.0] * 200 + [1.0] * 200 + [1.0])
    history = History.fit([reading(t) for t in texts], outcomes, WORDS)
    assert probability(history, "what is 1 + 1?", 0) < 0.05 and probability(history, "what is 2 + 2?", 1) < 0.05
    assert probability(history, "what is 22 + 1?", 0) > 0.95
    assert 0.5 < probability(history, "what is 333 + 1?", 2) < 0.9
    assert probability(history, "an unknown one", 0) == pytest.approx(history.prior_)


def test_one_sided_outcomes_stay_inside_zero_and_one() -> None:
    for outcome in (0.0, 1.0):
        history = History.fit([reading("what is 1 + 1?")] * 50, np.full(50, outcome), WORDS)
        assert 0.0 < probability(history, "what is 1 + 1?", 0) < 1.0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "_LIMITS", (10, 10, 10, 10))
    readings = [reading(f"what is {i} + {i}?") for i in range(100)] + [reading("what is 5 + 5?")] * 3
    history = History.fit(readings, np.ones(103), WORDS)
    assert all(len(table) <= 10 for table in history.tables_)
    assert history.signatures(reading("what is 5 + 5?"))[0] in history.tables_[0]


def test_common_words_are_the_wording() -> None:
    readings = [reading(f"what is {chr(97 + i % 26) * 4} in reverse?") for i in range(1000)]
    assert set(common_words(readings, 0.1)) == {"what", "is", "in", "reverse"}


def test_arrays_round_trip(tmp_path: Path) -> None:
    history = History.fit([reading(f"what is {i}?") for i in range(30)], np.arange(30) % 2, WORDS)
    np.savez(tmp_path / "h.npz", **history.arrays())
    again = History.from_arrays(tmp_path / "h.npz", WORDS)
    for text in ("what is 3?", "reverse abc"):
        assert again.logits(reading(text)) == pytest.approx(history.logits(reading(text)), abs=1e-6)


def test_past_logits_know_the_past_alone() -> None:
    texts = ["what is 1 + 1?", "what is 2 + 2?", "what is 1 + 1?", "what is 3 + 3?"]
    outcomes = np.array([1.0, 0.0, 1.0, 0.0])
    found = History(WORDS).past_logits([reading(t) for t in texts], outcomes, texts, seed=0)
    assert found[0] == found[2]
    prior = np.log(2.5 / 2.5)
    assert sum(row == pytest.approx((prior,) * 3) for row in found) in (1, 2)  # the first text saw nothing
    again = History(WORDS).past_logits([reading(t) for t in texts], outcomes, texts, seed=0)
    assert again == found


@pytest.mark.slow
def test_past_logits_do_not_carry_the_own_outcome_where_it_is_chance() -> None:
    """Means over the others would be correlated with it, with the sign turned."""
    rng = np.random.default_rng(0)
    texts = [f"what is {i} + {i}?" for i in rng.permutation(np.arange(1000, 3000))]
    outcomes = (rng.random(len(texts)) < 0.5).astype(float)
    found = np.array(History(WORDS).past_logits([reading(t) for t in texts], outcomes, texts, seed=1))
    assert abs(float(np.corrcoef(found[200:, 2], outcomes[200:])[0, 1])) < 0.06
