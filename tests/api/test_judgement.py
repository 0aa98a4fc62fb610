import pytest

from serve_app.api.routes import checked_feedback
from serve_app.api.schemas import FeedbackRequest
from serve_app.errors import RequestError
from serve_app.store.base import Feedback

POOLS = ("small", "large", "code")


def judged(pool="small", **given):
    return checked_feedback(FeedbackRequest(decision_id="d", **given), pool, POOLS)


def test_a_score_alone():
    assert judged(None, score=1, comment="good") == Feedback("d", 1.0, "good")


@pytest.mark.parametrize(
    ("pool", "given", "other"),
    [
        ("small", {"preferred": "large"}, "large"),
        ("small", {"preferred": "small"}, "large"),
        ("large", {"preferred": "large"}, "small"),
        ("large", {"preferred": "tie"}, "small"),
        ("small", {"preferred": "code"}, "code"),
        ("code", {"preferred": "large"}, "large"),
        ("code", {"preferred": "code", "against": "small"}, "small"),
        ("code", {"preferred": "tie", "against": "large"}, "large"),
        ("small", {"preferred": "small", "against": "code"}, "code"),
        ("small", {"preferred": "large", "against": "large"}, "large"),
    ],
)
def test_who_was_compared_with_whom(pool, given, other):
    assert judged(pool, **given) == Feedback("d", None, None, given["preferred"], other)


def test_score_and_preference_together():
    assert judged(score=0.25, preferred="tie") == Feedback("d", 0.25, None, "tie", "large")


@pytest.mark.parametrize(
    ("pool", "given", "param", "says"),
    [
        (None, {}, "score", "score, preferred"),
        (None, {"score": 1.0, "against": "large"}, "against", "preferred"),
        ("code", {"preferred": "code"}, "against", "'code'"),
        ("code", {"preferred": "tie"}, "against", "pool"),
        ("small", {"preferred": "huge"}, "preferred", "'huge'.*small, large, code"),
        ("small", {"preferred": "tie", "against": "huge"}, "against", "no pool 'huge'"),
        ("small", {"preferred": "small", "against": "small"}, "against", "'small'"),
        ("small", {"preferred": "large", "against": "code"}, "against", "'large'"),
        ("small", {"preferred": "large", "against": "small"}, "against", "'large'"),
    ],
)
def test_what_makes_no_sense_is_refused(pool, given, param, says):
    with pytest.raises(RequestError, match=says) as caught:
        judged(pool, **given)
    assert caught.value.param == param
