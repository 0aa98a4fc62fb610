"""A file replayed through a learner in this process: what a stream would have answered, and at how many LLM calls."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.cascade.online.base import Labelled, Learner
from serve_app.cascade.streams.rows import Row


@dataclass(slots=True)
class Score:
    """Counts of answers. `right` of `known` are the true label; `levels` counts answers by level, `llm` among them."""

    done: int = 0
    known: int = 0
    right: int = 0
    failed: int = 0
    unparsed: int = 0
    levels: dict[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Of the answers whose true label is known; None if there are none."""
        return self.right / self.known if self.known else None

    def share(self, level: str) -> float:
        """Of the answers that this level gave."""
        return self.levels.get(level, 0) / max(1, self.done)

    def add(self, level: str, label: int | None, row: Row) -> None:
        """An answer: the index of its label, None if it names none."""
        self.done += 1
        self.levels[level] = self.levels.get(level, 0) + 1
        self.unparsed += label is None
        if row.label is not None:
            self.known += 1
            self.right += label == row.label

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "queries": self.done,
            "accuracy": self.accuracy,
            "share": {level: self.share(level) for level in self.levels},
            "unparsed": self.unparsed,
            "failed": self.failed,
        }


def replay(
    learner: Learner, rows: Sequence[Row], levels: Sequence[str], seed: int, tell: Callable[[Score], None]
) -> Score:
    """Row by row, the column of the expert in the place of the LLM; `tell` is called after each."""
    rng, score = random.Random(seed), Score()
    for row in rows:
        walk = learner.policy().act(row.text, [rng.random() for _ in range(1 + len(levels))])
        learner.saw(walk)
        if walk.level is None:
            learner.learn(Labelled(row.text, row.expert, walk))
            score.add("llm", row.expert, row)
        else:
            score.add(levels[walk.level], walk.label, row)
        tell(score)
    return score
