"""How an answer is picked among recorded candidates: as `serving.choosing` and `serving.fusing` do among live ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.near_duplicates import normalise
from serve_app.ensemble.base import MemberCalls, Selection
from serve_app.ensemble.fitting.answers import Answers, RecordedCandidate
from serve_app.ensemble.fitting.models import FusedAnswers, RankedCandidates

Calls = tuple[MemberCalls, ...]


class PickRule(NamedTuple):
    """How the answer is picked, and how many of the best are fused: 0 for none."""

    select: Selection = "vote"
    fuse_top: int = 0

    def __str__(self) -> str:
        return self.select if not self.fuse_top else f"{self.select}, the best {self.fuse_top} fused"


VOTE, LAST, LOGPROB, RANKER = PickRule(), PickRule("last"), PickRule("logprob"), PickRule("ranker")


class Picked(NamedTuple):
    """The answers to n queries: texts, "" where no candidate says anything, and their quality, shape [n]."""

    texts: tuple[str, ...]
    quality: Floats


@dataclass(slots=True)
class Picking:
    """Picks among recorded candidates. `strengths`: quality of each member alone, for ties.

    `ranked` and `fused`: None where there is no ranker, or no fuser.
    """

    answers: Answers
    strengths: Mapping[str, float]
    ranked: RankedCandidates | None = None
    fused: FusedAnswers | None = None
    _found: dict[tuple[Calls, PickRule], Picked] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, int]:
        """Position of each member from the weakest to the strongest; of equal ones the dearer is the stronger."""
        cost = {name: float(self.answers.cost(MemberCalls(name)).mean()) for name in self.answers.names}
        order = sorted(self.answers.names, key=lambda name: (self.strengths.get(name, -1.0), cost[name]))
        return {name: at for at, name in enumerate(order)}

    def stage(self, calls: Calls, leaders: Sequence[str], way: PickRule) -> Picked:
        """What is picked of all candidates of `calls`, whose vote is led by `leaders`; computed once."""
        key = (calls, way)
        if key not in self._found:
            self._found[key] = self.at(range(len(self.answers)), calls, leaders, way)
        return self._found[key]

    def at(self, rows: Sequence[int], calls: Calls, leaders: Sequence[str], way: PickRule) -> Picked:
        """The same for some of the queries; `leaders` are of all."""
        return self.picked({row: (calls, leaders[row]) for row in rows}, way)

    def picked(self, of: Mapping[int, tuple[Calls, str]], way: PickRule) -> Picked:
        """What is picked for each query, by row, out of its own calls, whose vote has its own leader.

        `last` picks by vote: it is for the caller to leave rounds out.
        """
        places, orders = self.places, []
        for row, (calls, leader) in of.items():
            by_vote = _by_vote(self.answers.candidates(row, calls), leader, places)
            orders.append(self._ordered(row, by_vote, way))
        texts = [order[0].candidate.text if order else "" for order in orders]
        quality = [order[0].quality if order else 0.0 for order in orders]
        if way.fuse_top:
            assert self.fused is not None
            best = {row: _distinct(order)[: way.fuse_top] for row, order in zip(of, orders, strict=True)}
            rows = {row: [one.candidate.text for one in own] for row, own in best.items() if len(own) > 1}
            fused, at = self.fused.of(rows), {row: i for i, row in enumerate(of)}
            for row, (text, good) in fused.items():
                texts[at[row]], quality[at[row]] = text, good
        return Picked(tuple(texts), np.array(quality, dtype=np.float64))

    def _ordered(self, row: int, by_vote: list[RecordedCandidate], way: PickRule) -> list[RecordedCandidate]:
        """Candidates from the best to the worst; the vote breaks ties."""
        if way.select == "logprob":
            return sorted(by_vote, key=lambda one: -_logprob(one))
        if way.select != "ranker":
            return by_vote
        assert self.ranked is not None
        firsts = {_key(one): one.candidate for one in reversed(_as_called(by_vote, self.answers.names))}
        if len(firsts) < 2:
            return by_vote
        texts, members = [one.text for one in firsts.values()], [one.member for one in firsts.values()]
        scores = dict(zip(firsts, self.ranked.scores(row, texts, members).tolist(), strict=True))
        return sorted(by_vote, key=lambda one: -scores[_key(one)])


def _by_vote(
    candidates: Sequence[RecordedCandidate], leader: str, places: Mapping[str, int]
) -> list[RecordedCandidate]:
    """From the best to the worst: who says the leader, then by votes, then by strength; see `Voting.order`."""
    counts = Counter(one.vote.answer for one in candidates)

    def key(one: RecordedCandidate) -> tuple[bool, int, int]:
        says = one.vote.answer
        return says != leader, -counts[says], -places[one.candidate.member.partition("/")[0]]

    return sorted(candidates, key=key)


def _logprob(one: RecordedCandidate) -> float:
    return float("-inf") if one.candidate.logprob is None else one.candidate.logprob


def _as_called(candidates: Sequence[RecordedCandidate], names: Sequence[str]) -> list[RecordedCandidate]:
    """In a fixed order: which of near-duplicates is read must not depend on the vote."""
    return sorted(candidates, key=lambda one: (names.index(one.candidate.member), one.candidate.sample))


def _key(one: RecordedCandidate) -> str:
    """Near-duplicates, which differ in case, punctuation and spacing only, have the same: see `HeldAnswer`."""
    return normalise(one.candidate.text)


def _distinct(order: Sequence[RecordedCandidate]) -> list[RecordedCandidate]:
    """The first of each group of near-duplicates."""
    found: dict[str, RecordedCandidate] = {}
    for one in order:
        found.setdefault(_key(one), one)
    return list(found.values())
