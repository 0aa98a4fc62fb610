""""""

from math import isnan, nan

import numpy as np
import pytest

from serve_app.cascade.signals.answer_scorer import AnswerScorer, fit_answer_scorer
from serve_app.cascade.signals.combined import Combined, fit_combined, joint_needs
from serve_app.cascade.signals.specs import parts_of, signal_of, spec_of
from serve_app.cascade.signals.tokens import Entropy, Margin, MeanLogprob, Prior
from serve_app.data.answers import AnswerEvidence
from serve_app.errors import ConfigError, InsufficientData
from serve_app.learning.encoder import SentenceEncoder, saved_encoder
from serve_app.learning.metrics import auc
from serve_app.types import Message, Query
from tests.learning.encoders import save_encoder

SIGNALS = (MeanLogprob(), Prior())


def drawn(n: int = 400, seed: int = 0):
    """Two signals that each know half of what decides."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    ok = (rng.random(n) < 1 / (1 + np.exp(-2 * x.sum(1)))).astype(float)
    return x, ok


def test_together_they_know_more_than_each():
    x, ok = drawn()
    combined, outside = fit_combined(SIGNALS, x, ok)
    fresh, right = drawn(2_000, 1)
    found = np.array([combined.of_values(row) for row in fresh.tolist()])
    assert auc(found, right > 0) > max(auc(fresh[:, i], right > 0) for i in (0, 1)) + 0.05
    assert auc(outside, ok > 0) == pytest.approx(auc(found, right > 0), abs=0.05)


def test_unknown_signals_count_as_their_mean():
    combined = Combined(SIGNALS, (1.0, 2.0), (0.5, 1.0), (1.0, 3.0), 0.25)
    assert combined.of_values([1.5, nan]) == pytest.approx(1.25)
    assert combined.of_values([nan, 2.0]) == pytest.approx(0.25)
    assert isnan(combined.of_values([nan, nan]))
    assert combined.of_values([1e9, 2.0]) == combined.of_values([4.0, 2.0]) == pytest.approx(6.25), "bounded"


def test_it_comes_back_from_its_spec():
    combined, _ = fit_combined(SIGNALS, *drawn())
    assert signal_of(spec_of(combined), "x") == combined
    assert parts_of(combined) == SIGNALS


def test_needs_are_the_most_of_any():
    needs = joint_needs((Margin(), Entropy(), Prior("mf")))
    assert (needs.logprobs, needs.top_logprobs, needs.prior) == (True, 5, "mf")


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        (((), (), (), 0.0), "mean, scale and weight"),
        (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), 0.0), "scales"),
        (((0.0, nan), (1.0, 1.0), (1.0, 1.0), 0.0), "finite"),
    ],
)
def test_impossible_combinations(numbers, says):
    with pytest.raises(ConfigError, match=says):
        Combined(SIGNALS, *numbers)


def test_priors_of_two_routers_do_not_mix():
    with pytest.raises(ConfigError, match="two routers"):
        Combined((Prior("a"), Prior("b")), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0), 0.0)


def test_what_cannot_be_combined():
    x, ok = drawn(60)
    with pytest.raises(InsufficientData, match=r"40 answers, .*10"):
        fit_combined(SIGNALS, x[:10], ok[:10])
    x[:, 1] = nan
    with pytest.raises(InsufficientData, match="prior"):
        fit_combined(SIGNALS, x, ok)


def test_answers_of_one_kind_only_still_give_a_combination():
    x, _ = drawn(100)
    combined, _ = fit_combined(SIGNALS, x, np.ones(100))
    assert combined.weights == (0.0, 0.0) and combined.bias > 3


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> SentenceEncoder:
    folder = save_encoder(tmp_path_factory.mktemp("encoder"))
    return SentenceEncoder(str(folder), folder)


def answers(n: int, seed: int):
    """Right where the answer ends in the word that the query asks for."""
    rng = np.random.default_rng(seed)
    ok = (rng.random(n) < 0.5).astype(float)
    words = ["seven", "twelve"]
    judged = [
        AnswerEvidence(Query((Message("user", f"what is {i} plus {i}?"),)), words[int(right)])
        for i, right in enumerate(ok.tolist())
    ]
    return judged, ok


def test_an_answer_scorer_learns_from_texts_and_comes_back(encoder, monkeypatch):
    monkeypatch.setattr("serve_app.learning.encoder.load_encoder", lambda name: encoder)
    judged, ok = answers(150, 0)
    scorer, outside = fit_answer_scorer(judged, ok, encoder)
    fresh, right = answers(60, 1)
    assert auc(scorer.values(fresh), right > 0) > 0.95 and auc(outside, ok > 0) > 0.95
    loaded = signal_of(spec_of(scorer), "x")
    assert isinstance(loaded, AnswerScorer)
    assert loaded.value(fresh[0]) == pytest.approx(scorer.value(fresh[0]))
    assert isnan(scorer.value(AnswerEvidence(fresh[0].query, "  ")))
    saved_encoder("chain.json: answer_scorer", loaded.encoder, loaded.digest)
    with pytest.raises(ConfigError, match=r"chain\.json: answer_scorer.*encoder"):
        saved_encoder("chain.json: answer_scorer", loaded.encoder, "other")


def test_an_answer_scorer_wants_right_and_wrong_answers(encoder):
    judged, ok = answers(120, 0)
    with pytest.raises(InsufficientData, match="120, 100 %"):
        fit_answer_scorer(judged, np.ones(120), encoder)
    with pytest.raises(InsufficientData, match="at least 100"):
        fit_answer_scorer(judged[:50], ok[:50], encoder)
    with pytest.raises(ConfigError, match="dimension"):
        AnswerScorer("x", "y", np.ones(4), 0.0)
