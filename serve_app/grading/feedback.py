"""Callers' feedback in the decision log as data to learn from.

Scores become a Dataset where the same prompt was scored at every requested pool; stated preferences become battles.
The log keeps prompts only with `store.keep_prompts`, and never answers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.data.preferences import Preferences
from serve_app.errors import DataError
from serve_app.grading.base import UNIT
from serve_app.store.base import TIE
from serve_app.store.reading import FeedbackRow, feedback_rows
from serve_app.types import Message, Query

_ANSWERED = "completed"
Battle = tuple[str, str, str, float]
"""Prompt, model a, model b, outcome."""


@dataclass(frozen=True, slots=True)
class FeedbackLog:
    """Feedback that can be learned from, and how much was left out: its prompt was not kept, or there was no answer.

    Of several scores for one decision, or preferences of it against one pool, only the last is here: people change
    their minds. `models` says what each pool last answered with.
    """

    scores: tuple[FeedbackRow, ...]
    preferred: tuple[FeedbackRow, ...]
    models: Mapping[str, str]
    without_prompt: int
    without_answer: int

    def summary(self) -> str:
        """One line: what is here and what was left out."""
        return (
            f"{len(self.scores):,} scores and {len(self.preferred):,} preferences; left out: {self.without_prompt:,} "
            f"without a prompt (store.keep_prompts keeps them), {self.without_answer:,} without an answer"
        )

    def preferences(self) -> Preferences:
        """Every stated preference as a battle, then one for each prompt that two pools were scored at (mean scores).

        Raises DataError for a pool compared with that never answered, since its model is unknown.
        """
        battles = [*self._stated(), *self._by_score()]
        return Preferences(
            queries=tuple(_query(prompt) for prompt, *_ in battles),
            model_a=tuple(a for _, a, _, _ in battles),
            model_b=tuple(b for _, _, b, _ in battles),
            outcome=np.array([outcome for *_, outcome in battles], dtype=np.float64),
        )

    def dataset(self, pools: Sequence[str] = ("small", "large")) -> Dataset:
        """Prompts that were scored at every one of `pools`, one sample each: the mean score, cost and tokens.

        Only answers of the model that each pool has now, as it was last seen, count. Answers' texts are empty, as the
        log keeps none. Raises DataError if there is no such prompt.
        """
        scored = _scored([j for j in self.scores if self.models[j.pool] == j.model])
        prompts = [prompt for prompt, by_pool in scored.items() if all(pool in by_pool for pool in pools)]
        if not prompts:
            raise DataError(
                f"no prompt was scored at all of {', '.join(pools)} ({self.summary()}): one answer alone does not say "
                "which pool is better; send a share of the traffic to both, or learn from stated preferences"
            )
        about: dict[str, object] = {"source": "feedback", "metric": "feedback", "quality_range": list(UNIT)}
        about |= {"without_prompt": self.without_prompt, "scored_at_fewer_pools": len(scored) - len(prompts)}
        return Dataset(
            queries=tuple(_query(prompt) for prompt in prompts),
            pools={pool: self._answers(pool, [scored[prompt][pool] for prompt in prompts]) for pool in pools},
            groups=("",) * len(prompts),
            about=about,
            ids=tuple(scored[prompt][pools[0]][0].decision_id for prompt in prompts),
        )

    def _answers(self, pool: str, rows: Sequence[Sequence[FeedbackRow]]) -> PoolAnswers:
        def column(name: str) -> np.ndarray:
            return np.array([[fmean(getattr(j, name) for j in row)] for row in rows], dtype=np.float64)

        names = ("score", "cost_usd", "prompt_tokens", "completion_tokens", "latency_ms")
        score, cost, read, written, latency = map(column, names)
        return PoolAnswers(self.models[pool], (("",),) * len(rows), score, cost, read, written, latency)

    def _stated(self) -> list[Battle]:
        battles = []
        for j in self.preferred:
            other = self.models.get(j.against or "")
            if other is None:
                raise DataError(
                    f"decision {j.decision_id!r} was compared with pool {j.against!r}, which answered nothing in this "
                    "log, so that its model is unknown: leave such feedback out, or log an answer of that pool"
                )
            outcome = 0.5 if j.preferred == TIE else float(j.preferred == j.pool)
            battles.append((j.prompt or "", j.model, other, outcome))
        return battles

    def _by_score(self) -> list[Battle]:
        battles = []
        for prompt, by_pool in _scored(self.scores).items():
            for a, b in combinations(sorted(by_pool), 2):
                gap = fmean(j.score or 0.0 for j in by_pool[a]) - fmean(j.score or 0.0 for j in by_pool[b])
                models = by_pool[a][-1].model, by_pool[b][-1].model
                battles.append((prompt, *models, 0.5 if gap == 0 else float(gap > 0)))
        return battles


def read_feedback(path: Path) -> FeedbackLog:
    """The feedback in a store's file. Raises ConfigError if it cannot be read."""
    judgements, models = feedback_rows(path)
    answered = [j for j in judgements if j.status == _ANSWERED]
    usable = [j for j in answered if j.prompt is not None]
    scores = {j.decision_id: j for j in usable if j.score is not None}
    preferred = {(j.decision_id, j.against): j for j in usable if j.preferred is not None}
    return FeedbackLog(
        tuple(scores.values()),
        tuple(preferred.values()),
        models,
        without_prompt=len(answered) - len(usable),
        without_answer=len(judgements) - len(answered),
    )


def _scored(scores: Sequence[FeedbackRow]) -> dict[str, dict[str, list[FeedbackRow]]]:
    """Scores by prompt and pool."""
    found: dict[str, dict[str, list[FeedbackRow]]] = defaultdict(lambda: defaultdict(list))
    for judgement in scores:
        found[judgement.prompt or ""][judgement.pool].append(judgement)
    return found


def _query(prompt: str) -> Query:
    return Query((Message("user", prompt),))
