"""Which candidate wins: by votes, a ranker's scores, log-probabilities, or as the last that was called.

A ranker that fails or is late, and log-probabilities that are missing, leave the choice to the vote. The vote's ties go
to the strongest member, so that there is always an answer.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from time import monotonic

from serve_app.ensemble.serving.candidates import HeldAnswer, eligible, merged
from serve_app.ensemble.serving.served import RankWith, ServedPlan
from serve_app.ensemble.serving.voting import Voting
from serve_app.types import Query
from serve_app.wire.frames import Call

logger = logging.getLogger("jethro.ensemble")


@dataclass(slots=True)
class Chosen:
    """Candidates in `order`, the best first, and why. `probability`: of the first being right; None where not known.

    `scores` of candidates, as far as they have one; `notes`: what went otherwise than planned; `ms`: time it took.
    """

    order: list[HeldAnswer]
    why: str
    probability: float | None = None
    scores: dict[HeldAnswer, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def best(self) -> HeldAnswer:
        """The winner."""
        return self.order[0]


async def choose(held: Sequence[HeldAnswer], served: ServedPlan, voting: Voting, query: Query, call: Call) -> Chosen:
    """The choice among candidates (at least one) that came in time; raises nothing but a cancellation.

    The ranker has at most `served.rank_s`, less where the caller's deadline is nearer.
    """
    select, rank, rank_s = served.plan.select, served.rank, served.rank_s
    able = eligible(held)
    by_vote = _by_vote(able, voting)
    if len(able) == 1 or select == "vote":
        return by_vote
    if select == "last":
        return _by_vote([one for one in able if one.call.round == able[-1].call.round], voting)
    if select == "logprob":
        return _by_logprob(able, by_vote)
    groups = merged(able)
    if len(groups) == 1:
        return Chosen(by_vote.order, f"{len(able)} candidates say the same", by_vote.probability, notes=by_vote.notes)
    cooldown = served.ranker_cooldown
    if cooldown.is_active():
        by_vote.notes.append("the ranker failed many times before and is left alone for a while: by vote")
        return by_vote
    limit_s = rank_s if call.deadline_s is None else min(rank_s, max(0.0, call.deadline_s - monotonic()))
    try:
        if rank is None:
            raise LookupError("there is none")
        async with asyncio.timeout(limit_s):
            ranked = await _ranked(groups, by_vote, rank, query)
    except TimeoutError:
        if counts(limit_s, rank_s):
            cooldown.failed()
        by_vote.notes.append("the ranker gave no scores in time: by vote")
        return by_vote
    except Exception as e:
        cooldown.failed()
        logger.warning("the ranker failed", exc_info=e)
        by_vote.notes.append(f"the ranker failed ({type(e).__name__}): by vote")
        return by_vote
    cooldown.succeeded()
    return ranked


def counts(limit_s: float, whole_s: float) -> bool:
    """Whether being late is a failure: a caller in a hurry gave too little time for that."""
    return limit_s >= whole_s / 2


def _by_vote(able: Sequence[HeldAnswer], voting: Voting) -> Chosen:
    votes = [vote for one in able for vote in one.votes]
    leader, probability = voting.leading(votes)
    order = voting.order(able, leader)
    count = sum(vote.answer == leader for vote in votes)
    what = "P(right)" if voting.model is not None else "a share of"
    why = f"{count} of {len(votes)} votes ({what} {probability:.3f})" if len(votes) > 1 else "the only candidate"
    return Chosen(order, why, probability if len(votes) > 1 or voting.model is not None else None)


def _by_logprob(able: Sequence[HeldAnswer], by_vote: Chosen) -> Chosen:
    scores = {one: one.logprob for one in able if one.logprob is not None and isfinite(one.logprob)}
    if not scores:
        by_vote.notes.append("no candidate has log-probabilities: by vote")
        return by_vote
    order = sorted(by_vote.order, key=lambda one: -scores.get(one, float("-inf")))
    return Chosen(order, f"mean log-probability {scores[order[0]]:.4f}", scores=scores)


async def _ranked(groups: Sequence[list[HeldAnswer]], by_vote: Chosen, rank: RankWith, query: Query) -> Chosen:
    """By the mean score of each candidate's choices.

    Near-duplicates are ranked once, as the answer of the first member called, and their votes break ties.
    """
    firsts = [group[0] for group in groups]
    texts = [text for one in firsts for text in one.texts]
    models = [one.model for one in firsts for _ in one.texts]
    found = [float(score) for score in await rank(query.text, texts, models)]
    if len(found) != len(texts) or not all(isfinite(score) for score in found):
        raise ValueError("scores that are no numbers, or not one for each candidate")
    scores: dict[HeldAnswer, float] = {}
    for group, first in zip(groups, firsts, strict=True):
        mine, found = found[: len(first.texts)], found[len(first.texts) :]
        scores |= dict.fromkeys(group, sum(mine) / len(mine))
    order = sorted(by_vote.order, key=lambda one: -scores[one])
    why = f"ranked first of {len(groups)} with {scores[order[0]]:.3f}"
    return Chosen(order, why, scores=scores, notes=by_vote.notes)
