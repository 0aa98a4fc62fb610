"""The vote of answers, by hand-computed cases, and its state."""

from collections.abc import Callable
from dataclasses import replace
from math import exp
from typing import Any

import pytest

from serve_app.ensemble.agreement import Agreement, Expectation, LikeQueries, VoteStage, groups
from serve_app.ensemble.base import Vote
from serve_app.errors import ConfigError
from serve_app.learning.features import NUMERIC, read
from serve_app.types import Message, Query

TWO = VoteStage(("a", "b"), -0.5, (1.0, 0.4, -0.8, -0.3, 0.2, 0.0, 1.0), (2.0, 2.0), (1.0, 1.0))
THREE = VoteStage(
    ("a", "b", "c"), -0.5, (1.0, 0.4, 2.0, -0.8, -0.3, -1.5, 0.0, 0.0, 0.0, 0.0), (2.0,) * 3, (1.0,) * 3, 0.5, 0.1
)
MODEL = Agreement((TWO, THREE))


def p(log_odds: float) -> float:
    return 1 / (1 + exp(-log_odds))


def test_log_odds_add_up() -> None:
    # both say it: bias + said_a + said_b
    assert MODEL.probability([Vote("a", "4"), Vote("b", "4")]) == ("4", pytest.approx(p(-0.5 + 1.0 + 0.4)))
    # they differ: a's answer has bias + said_a + other_b = 0.2, b's -0.5 + 0.4 - 0.8 = -0.9
    assert MODEL.probability([Vote("b", "5"), Vote("a", "4")]) == ("4", pytest.approx(p(0.2)))
    assert MODEL.probability([Vote("b", "5")]) == ("5", pytest.approx(p(-0.1)))


def test_a_strong_member_outvotes_two_and_its_stage_is_calibrated() -> None:
    votes = [Vote("a", "4"), Vote("b", "4"), Vote("c", "5")]
    # 4: -0.5 + 1.4 - 1.5 = -0.6; 5: -0.5 + 2 - 0.8 - 0.3 = 0.4; then slope 0.5, shift 0.1
    assert MODEL.probability(votes) == ("5", pytest.approx(p(0.5 * 0.4 + 0.1)))


def test_samples_of_one_member_share_its_vote() -> None:
    votes = [Vote("a", "4"), Vote("a", "4"), Vote("a", "6"), Vote("a", "7")]
    # 4 has half of a's votes and half are against it: -0.5 + 0.5 * 1.0 - 0.5 * 0.8
    assert MODEL.probability(votes) == ("4", pytest.approx(p(-0.4)))


def test_a_long_answer_counts_as_its_member_s_lengths_do() -> None:
    found, known = MODEL.probability([Vote("a", "4", exp(3) - 10)])  # log(tokens + 10) = 3: one deviation above 2
    assert found == "4" and known == pytest.approx(p(-0.5 + 1.0 + 0.2))


def test_unknown_members_count_for_nothing() -> None:
    assert MODEL.probability([Vote("z", "9"), Vote("a", "4")])[0] == "4"
    assert MODEL.probability([Vote("z", "9"), Vote("y", "8")]) == ("9", 0.0)


def test_accuracy_on_like_queries_shifts_the_vote() -> None:
    zeros, ones = (0.0,) * len(NUMERIC), (1.0,) * len(NUMERIC)
    like = LikeQueries(-2.0, zeros, zeros, ones)
    model = Agreement((TWO,), {"a": like}).for_query(Query((Message("user", "what is 2 + 2?"),)))
    # a's answer: 0.2 - 2.0; b's: -0.9 + 2.0, a being against it
    answer, probability = model.probability([Vote("a", "4"), Vote("b", "5")])
    assert answer == "5" and probability == pytest.approx(p(1.1))
    assert MODEL.for_query(Query((Message("user", "x"),))) is MODEL


def test_words_are_a_unit_vector_over_those_known() -> None:
    zeros, ones = (0.0,) * len(NUMERIC), (1.0,) * len(NUMERIC)
    like = LikeQueries(0.5, zeros, zeros, ones, words={"law": 2.0, "court": 1.0, "sum": -3.0})
    offsets = [like.offset(read(Query((Message("user", text),)))) for text in ("law, law and court", "physics", "Sum")]
    assert offsets == pytest.approx([0.5 + 3.0 / 2**0.5, 0.5, 0.5 - 3.0])


def test_a_plan_stops_by_what_further_rounds_are_expected_to_add() -> None:
    now, later = Expectation(-0.9, 1.0, {"b": 0.5}), Expectation(0.8, 0.25, {"c": 2.0})
    stage = replace(TWO, now=now, later=later)
    votes = [Vote("a", "4")]
    odds = -0.5 + 1.0  # a says it
    found = Agreement((stage,), offsets={"b": 0.4, "c": -0.3})
    gain = p(0.8 + 0.25 * odds - 0.6) - p(-0.9 + odds + 0.2)
    assert gain > 0 and found.sure(votes) == pytest.approx(1.0 - gain), "b and c have no vote, and count all the same"
    worse = replace(stage, later=Expectation(-2.0, 0.0))
    assert Agreement((worse,)).sure(votes) == 1.0, "nothing is to be gained"
    assert Agreement((TWO,)).sure(votes) == Agreement((TWO,)).probability(votes)[1]
    assert Agreement((stage,)).sure([Vote("z", "9")]) == 0.0
    kept = Agreement.from_state(replace(found, stages=(stage, THREE)).state())
    assert kept.stages == (stage, THREE) and kept.stops == "gain" and MODEL.stops == "probability"


LONG = "the treaty was signed in the old town hall in march 1648"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (LONG.replace("old ", ""), True),
        (LONG.replace("1648", "1649"), False),
        (LONG.replace("was", "was not"), False),
        ("a wholly different answer that shares hardly any words with it", False),
    ],
)
def test_near_duplicates_of_free_text(other: str, same: bool) -> None:
    votes = [Vote("a", LONG), Vote("b", "no idea"), Vote("c", other)]
    assert groups(votes, 0.8) == [0, 1, 0 if same else 2]
    assert groups(votes, None) == [0, 1, 2]


def test_short_answers_are_never_near_duplicates() -> None:
    assert groups([Vote("a", "in the red house"), Vote("b", "in the blue house")], 0.5) == [0, 1]


def test_the_state_is_kept() -> None:
    zeros, ones = (0.0,) * len(NUMERIC), (1.0,) * len(NUMERIC)
    model = Agreement((TWO, THREE), {"a": LikeQueries(0.5, zeros, zeros, ones, {"add": 0.25})}, 0.8)
    assert Agreement.from_state(model.state()) == model


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "kind is 'other'": lambda s: s.update(kind="other"),
    "must be an object of": lambda s: s.pop("likes"),
    "stages: must be a list": lambda s: s.update(stages=[]),
    "similarity: is 2": lambda s: s.update(similarity=2),
    r"stages\[0\].weights: must be 7 finite numbers": lambda s: s["stages"][0]["weights"].pop(),
    r"weights: must be 7 finite": lambda s: s["stages"][0]["weights"].__setitem__(0, float("nan")),
    "length_scale: must be above 0": lambda s: s["stages"][0].update(length_scale=[0.0, 1.0]),
    "slope: is -1, below 0": lambda s: s["stages"][0].update(slope=-1),
    "now and later must both be there": lambda s: s["stages"][0].update(now={"bias": 0.0, "lead": 1.0, "liked": {}}),
    r"later: must be an object of bias, lead, liked": lambda s: s["stages"][0].update(later={"bias": 0.0}),
    "some have now and later and some have not": lambda s: s["stages"].insert(
        0, s["stages"][0] | {key: {"bias": 0.0, "lead": 1.0, "liked": {}} for key in ("now", "later")}
    ),
    "name one twice": lambda s: s["stages"][0].update(members=["a", "a"]),
    "members: must be a list of names": lambda s: s["stages"][0].update(members=[1, 2]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_state_is_refused(message: str) -> None:
    state = MODEL.state()
    BROKEN[message](state)
    with pytest.raises(ConfigError, match=message):
        Agreement.from_state(state)
