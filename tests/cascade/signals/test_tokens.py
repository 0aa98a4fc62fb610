""""""

from math import exp, inf, isnan, log, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cascade.fitting.confidence import opening
from serve_app.cascade.signals.consistency import AnswerAgreement, SelfVerification
from serve_app.cascade.signals.specs import UNTRAINED, signal_of, spec_of
from serve_app.cascade.signals.tokens import (
    Brevity,
    Entropy,
    Margin,
    MeanLogprob,
    MinLogprob,
    Prior,
    QuantileLogprob,
    SumLogprob,
)
from serve_app.data.answers import AnswerEvidence, parse_verdict, parse_verdicts, verification_query
from serve_app.errors import ConfigError
from serve_app.grading.normalizers import plain_text as normalised
from serve_app.types import Message, Query, TokenLogprob

QUERY = Query((Message("user", "what is 2 + 2?"),))


def judged(*values: float, tops: tuple = (), **more) -> AnswerEvidence:
    tokens = tuple(
        TokenLogprob(chr(97 + i), v, tuple((str(k), p) for k, p in enumerate(tops[i])) if tops else ())
        for i, v in enumerate(values)
    )
    return AnswerEvidence(QUERY, "".join(t.token for t in tokens), tokens, **more)


def test_logprobs_by_hand():
    answer = judged(-0.1, -0.4, -0.1, -1.0)
    assert MeanLogprob().value(answer) == pytest.approx(-0.4)
    assert SumLogprob().value(answer) == pytest.approx(-1.6)
    assert MinLogprob().value(answer) == -1.0
    assert QuantileLogprob(0.0).value(answer) == -1.0 and QuantileLogprob(1.0).value(answer) == -0.1
    assert Brevity().value(answer) == pytest.approx(-log(5))


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=12), st.floats(0, 1))
def test_a_quantile_is_numpys(values, q):
    assert QuantileLogprob(q).value(judged(*values)) == pytest.approx(np.quantile(values, q), abs=1e-9)


def test_margin_and_entropy_by_hand():
    tops = ((log(0.7), log(0.2)), (log(0.5), log(0.5)))
    answer = judged(log(0.7), log(0.5), tops=tops)
    assert Margin("worst").value(answer) == pytest.approx(0.0)
    assert Margin("mean").value(answer) == pytest.approx(0.25)
    assert Margin("first").value(answer) == pytest.approx(0.5)
    first = 0.7 * log(0.7) + 0.2 * log(0.2) + 0.1 * log(0.1)
    assert Entropy("first").value(answer) == pytest.approx(first)
    assert Entropy("mean").value(answer) == pytest.approx((first - log(2)) / 2)
    assert Entropy("worst").value(answer) == pytest.approx(first)


def test_the_margin_is_of_the_likeliest_whatever_was_sampled():
    assert Margin("first").value(judged(log(0.1), tops=((log(0.3), log(0.6)),))) == pytest.approx(0.3)


def test_prior():
    assert Prior().value(judged(prior=0.25)) == pytest.approx(log(3))
    assert isnan(Prior().value(judged())) and isnan(Prior().value(judged(prior=nan)))
    assert Prior().value(judged(prior=0.0)) < inf and Prior("mf").needs.prior == "mf"


def test_agreement():
    said = judged(-0.1, -0.1, samples=("AB.", " ab", "b"))
    assert AnswerAgreement(3).value(said) == pytest.approx(2 / 3)
    unfinished = judged(-0.1, finished=False, samples=("abc", "ab", "b", "a"))
    assert AnswerAgreement(4).value(unfinished) == pytest.approx(3 / 4)
    assert isnan(AnswerAgreement().value(judged(-0.1)))
    assert normalised("-5") != normalised("5") and normalised(" The  Answer.") == "the answer"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes", 1), ("yes.", 1), ("No, it is not", 0), ("Correct", 1), ("not correct", 0), ("isn't right", 0),
        ("The answer is incorrect.", 0), ("", nan), ("maybe", nan), ("YES!!", 1), ("not no", 0),
    ],
)  # fmt: skip
def test_verdicts_are_read(text, verdict):
    assert parse_verdict(text) == verdict or (isnan(parse_verdict(text)) and isnan(verdict))


def test_self_verification():
    answer = judged(-0.1, verdicts=(1.0, 0.0, 1.0, nan))
    assert SelfVerification(4).value(answer) == pytest.approx(2 / 3)
    assert isnan(SelfVerification().value(judged(-0.1)))
    assert parse_verdicts(["yes", "perhaps", "no"]) == (1.0, 0.0)
    query = verification_query(answer, 5, seed=3)
    assert query.sampling.n == 5 and query.sampling.temperature > 0 and QUERY.text in query.text and "a" in query.text
    opening_query = verification_query(judged(-0.1, finished=False), 2)
    assert "pening" in opening_query.text and "pening" not in query.text


SIGNALS = [make() for make in UNTRAINED.values()] + [Margin("first"), Entropy("worst")]
logprobs = st.one_of(st.floats(-50, 0), st.just(nan), st.just(-inf))
answers = st.builds(
    lambda values, top, text, finished, samples, verdicts, prior: AnswerEvidence(
        QUERY,
        text,
        tuple(TokenLogprob("x", v, tuple(("y", p) for p in top)) for v in values),
        finished,
        tuple(samples),
        tuple(verdicts),
        prior,
    ),
    st.lists(logprobs, max_size=6),
    st.lists(logprobs, max_size=4),
    st.text(max_size=8),
    st.booleans(),
    st.lists(st.text(max_size=4), max_size=3),
    st.lists(st.one_of(st.floats(0, 1), st.just(nan)), max_size=3),
    st.one_of(st.none(), st.floats(0, 1), st.just(nan)),
)


@given(answers, st.integers(1, 4))
def test_no_answer_makes_a_signal_raise(answer, tokens):
    for signal in SIGNALS:
        for seen in (answer, opening(answer, tokens)):
            value = signal.value(seen)
            assert isinstance(value, float) and value != inf


@given(answers)
def test_surer_tokens_never_lower_a_signal(answer):
    surer = AnswerEvidence(
        QUERY, answer.text, tuple(TokenLogprob(t.token, t.logprob / 2, t.top) for t in answer.logprobs)
    )
    for signal in (MeanLogprob(), MinLogprob(), SumLogprob()):
        before, after = signal.value(answer), signal.value(surer)
        assert isnan(before) or after >= before - 1e-12


def test_the_opening_of_an_answer():
    whole = judged(-0.1, -0.2, -0.3)
    assert opening(whole, None) is whole and opening(whole, 4) is whole
    first = opening(whole, 2)
    assert first.text == "ab" and not first.finished and len(first.logprobs) == 2
    assert exp(SumLogprob().value(first)) == pytest.approx(exp(-0.3))


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda s: s.name)
def test_specs_come_back(signal):
    assert signal_of(spec_of(signal), "x") == signal


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"name": "hope"}, "chain.json: .*'hope'.* mean_logprob"),
        ({"name": "margin", "reduce": "best"}, "chain.json: margin: reduce .*'best'"),
        ({"name": "quantile_logprob", "quantile": 2}, "quantile is 2"),
        ({"name": "min_logprob", "x": 1}, r"min_logprob .*\['x'\]"),
        ({"name": "agreement", "samples": 0}, "samples is 0"),
        ({"name": "combined", "signals": []}, "combined .*bias, means"),
        ("margin", "None"),
        ({"name": "cost_aware"}, "cost_aware"),
    ],
)
def test_bad_specs_are_named(spec, says):
    with pytest.raises(ConfigError, match=says):
        signal_of(spec, "chain.json")
