"""A core of online learning that counts words: a fake with the contract of the real one, exact and in no need of torch.

Its one level answers once a word of the text was seen with one label at least `sure` times more than with any other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve_app.streams.online.base import Arrays, Episode, LabeledEvent, StreamSpec

SURE = 4
HASH = 64


def spec(**changes: Any) -> StreamSpec:
    told: dict[str, Any] = {"name": "mood", "labels": ("joy", "fear"), "instruction": "Name the feeling."}
    return StreamSpec(**{**told, "levels": ("logistic",), "audit_share": 0.0, **changes})


def cells(text: str) -> list[int]:
    return [sum(map(ord, word)) % HASH for word in text.lower().split()]


@dataclass(frozen=True)
class WordPolicy:
    counts: Any
    version: int
    audit_share: float

    def act(self, text: str, coins: Sequence[float] | None) -> Episode:
        if coins is not None and coins[0] < self.audit_share:
            return Episode(None, None, (), (), "audit", self.version)
        votes = self.counts[cells(text)].sum(axis=0) + 0.0
        best = int(votes.argmax())
        others = np.delete(votes, best).max()
        shares = tuple(float(v) for v in (votes + 1) / (votes + 1).sum())
        if votes[best] - others >= SURE:
            return Episode(0, best, (shares,), (0.1,), "confident", self.version)
        return Episode(None, None, (shares,), (0.9,), "deferred", self.version)

    def observe(self, episode: Episode) -> None:
        """It has no price."""

    def arrays(self) -> Arrays:
        return {"counts": self.counts, "meta": np.array([self.version, self.audit_share])}


@dataclass
class WordLearner:
    spec: StreamSpec
    counts: Any
    version: int = 0
    seen: int = 0
    order: list[str] = field(default_factory=list)
    _policy: WordPolicy | None = None

    def prepare(self, texts: Sequence[str]) -> None:
        """Words are counted as they come."""

    def observe(self, episode: Episode) -> None:
        self.seen += 1

    def learn(self, labelled: LabeledEvent) -> None:
        if labelled.text == "poison":
            raise RuntimeError("the fake learner was told to fail")
        if labelled.label is None:
            return
        np.add.at(self.counts, (cells(labelled.text), labelled.label), 1)
        self.order.append(labelled.id)
        self.version += 1
        self._policy = None

    def policy(self) -> WordPolicy:
        if self._policy is None:
            self._policy = WordPolicy(self.counts.copy(), self.version, self.spec.audit_share)
        return self._policy

    def state(self) -> tuple[Arrays, dict[str, object]]:
        return {"counts": self.counts}, {"version": self.version, "seen": self.seen, "order": list(self.order)}

    def figures(self) -> dict[str, object]:
        return {"updates": self.version, "drift": False, "agreement": None}


class FakeCore:
    def new(self, spec: StreamSpec) -> WordLearner:
        return WordLearner(spec, np.zeros((HASH, len(spec.labels)), dtype=np.int64))

    def restored(self, spec: StreamSpec, arrays: Arrays, values: Mapping[str, Any]) -> WordLearner:
        return WordLearner(spec, np.array(arrays["counts"]), **values)

    def policy(self, spec: StreamSpec, arrays: Arrays) -> WordPolicy:
        version, audit_share = arrays["meta"]
        return WordPolicy(np.array(arrays["counts"]), int(version), float(audit_share))
