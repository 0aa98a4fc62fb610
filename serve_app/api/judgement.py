"""What a caller's feedback says, checked against the decision that it is about."""

from collections.abc import Collection

from serve_app.api.schemas import FeedbackRequest
from serve_app.errors import RequestError
from serve_app.store.base import TIE, Feedback

_COUNTERPART = {"small": "large", "large": "small"}
"""Whose answer is meant where the caller does not say: the two pools that must exist are compared with each other."""


def judgement(given: FeedbackRequest, pool: str | None, pools: Collection[str]) -> Feedback:
    """The feedback to store, with the pool compared with filled in.

    `pool` is the decision's, needed where `given` prefers one. Raises RequestError naming the parameter.
    """
    if given.score is None and given.preferred is None:
        raise RequestError("Give score, preferred or both.", param="score", code="missing_required_parameter")
    score = None if given.score is None else float(given.score)
    if given.preferred is None:
        if given.against is not None:
            raise _invalid("against", "is only allowed with preferred")
        return Feedback(given.decision_id, score, given.comment)
    assert pool is not None
    other = given.preferred if given.preferred not in (TIE, pool) else given.against or _COUNTERPART.get(pool)
    if other is None:
        raise _invalid("against", f"name the pool that {pool!r} was compared with")
    named = "preferred" if other == given.preferred else "against"
    if other not in pools:
        raise _invalid(named, f"no pool {other!r}; pools are {', '.join(pools)}")
    if other == pool or given.against not in (None, other):
        raise _invalid("against", f"one of the two pools compared is {pool!r}, which answered; {other!r} is the other")
    return Feedback(given.decision_id, score, given.comment, given.preferred, other)


def _invalid(param: str, why: str) -> RequestError:
    return RequestError(f"{param}: {why}.", param=param, code="invalid_value")
