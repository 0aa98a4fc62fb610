"""The vote among candidates: which answer leads, how sure that is, and whether outstanding calls can still change it.

With an agreement model the plan's own weights and calibration hold. Without one the plurality leads, and its share of
the votes stands for the probability. A tie goes to the answer of the strongest member.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from serve_app.ensemble.base import AgreementModel, EnsemblePlan, Vote
from serve_app.ensemble.serving.candidates import HeldAnswer
from serve_app.pools.base import Pool

_UNSEEN: Final = "\0"
"""An answer that no member has given: a NUL is in no text."""

logger = logging.getLogger("jethro.ensemble")


@dataclass(frozen=True)
class Voting:
    """The vote of a plan. `strength`: position of each member from the weakest to the strongest, see `strengths`."""

    strength: Mapping[str, int]
    model: AgreementModel | None = None
    failed: list[str] = field(default_factory=list)
    """Why the model gave no probability, once for each time."""

    def leading(self, votes: Sequence[Vote]) -> tuple[str, float]:
        """The answer that leads, and the probability that it is right. At least one vote."""
        if self.model is not None:
            try:
                answer, probability = self.model.probability(votes)
                if 0.0 <= probability <= 1.0 and any(vote.answer == answer for vote in votes):
                    return answer, float(probability)
                self.failed.append(f"agreement model gave {probability!r}")
            except Exception as e:  # no answer must be lost to it
                logger.exception("the agreement model failed")
                self.failed.append(f"agreement model failed: {type(e).__name__}")
        counts = Counter(vote.answer for vote in votes)
        most = max(counts.values())
        tied = [vote for vote in votes if counts[vote.answer] == most]
        strongest = max(tied, key=lambda vote: self.strength.get(vote.member, -1))
        return strongest.answer, most / len(votes)

    def sure(self, votes: Sequence[Vote]) -> float:
        """What is compared with `Round.stop_at`: see `AgreementModel.sure`. At least one vote."""
        if self.model is not None:
            try:
                sure = self.model.sure(votes)
                if 0.0 <= sure <= 1.0:
                    return float(sure)
                self.failed.append(f"agreement model gave {sure!r}")
            except Exception as e:  # no answer must be lost to it
                logger.exception("the agreement model failed")
                self.failed.append(f"agreement model failed: {type(e).__name__}")
        return self.leading(votes)[1]

    def is_settled(self, votes: Sequence[Vote], outstanding: Sequence[str], least: float) -> bool:
        """Whether the leader stays, and stays as sure as `least`, whatever the members of the outstanding votes say.

        Tried are the worst cases for the leader: all of them for the second, or all for an answer of their own.
        """
        counts = [count for _, count in Counter(vote.answer for vote in votes).most_common(2)]
        if not counts or counts[0] - sum(counts[1:]) < len(outstanding):
            return False  # by far the most cases, and cheap: a model may compare every two texts
        leader, _ = self.leading(votes)
        others = Counter(vote.answer for vote in votes if vote.answer != leader)
        rivals = [*(answer for answer, _ in others.most_common(1)), _UNSEEN]
        for rival in rivals:
            worst = [*votes, *(Vote(member, rival) for member in outstanding)]
            if self.leading(worst)[0] != leader or (least > 0.0 and self.sure(worst) < least):
                return False
        return True

    def order(self, held: Sequence[HeldAnswer], leader: str | None = None) -> list[HeldAnswer]:
        """Candidates from the best to the worst: by the votes for what they say, then by the strength of the member.

        What says the `leader` comes first. Of a candidate of several choices the mean counts.
        """
        counts = Counter(key for one in held for key in one.keys)
        lead = dict.fromkeys(held, 0.0)
        for one in held:
            lead[one] = sum(key == leader for key in one.keys) / len(one.keys)
        return sorted(
            held,
            key=lambda one: (-lead[one], -sum(counts[k] for k in one.keys) / len(one.keys), -self._strength(one)),
        )

    def _strength(self, one: HeldAnswer) -> int:
        return self.strength.get(one.member, -1)


def strengths(plan: EnsemblePlan, pools: Mapping[str, Pool]) -> dict[str, int]:
    """Position of each member from the weakest to the strongest: by its quality alone as fitted.

    Of members without one, which are weaker than any with one, the dearer is the stronger, and then the later one.
    """
    members = list(dict.fromkeys(member for member in plan.members))
    found = sorted(
        range(len(members)),
        key=lambda i: (
            plan.expected.get(f"quality:{members[i].name}", -1.0),
            pools[members[i].pool].price.output_usd_per_million,
            i,
        ),
    )
    return {members[i].name: position for position, i in enumerate(found)}
