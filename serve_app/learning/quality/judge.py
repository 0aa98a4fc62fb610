"""A language model as judge of single answers: a rating from 1 to 10, mapped to [0, 1]."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.asking import Asking
from serve_app.learning.quality.base import UNIT, Floats, Range, Report, silent, with_quality
from serve_app.learning.quality.judge_prompts import RATINGS, rating_prompt, read_rating
from serve_app.learning.quality.judged import judged_rows
from serve_app.pools.base import Pool


class Judge:
    """Rates every answer by itself with the model of a pool, greedily (Zheng et al. 2023, section 3.1, single answer).

    Quality is (rating - 1) / 9. With `reference` the judge sees a row's reference where there is one. A reply without
    a rating is never turned into one: its row is left out of the dataset that `score` gives, and counted in
    `about["metric_told"]` (`unparsable` replies, `dropped` rows). Equal answers to one query are asked once.
    `journal` is a file that keeps every reply, so that a run that was cut off pays for none twice.
    """

    name = "judge"
    quality_range: Range = UNIT

    def __init__(
        self,
        pool: Pool,
        concurrency: int = 8,
        reference: bool = True,
        max_tokens: int = 1024,
        journal: str | Path | None = None,
    ) -> None:
        self.reference = reference
        self._asking = Asking(pool, concurrency, max_tokens, Path(journal) if journal else None)

    @property
    def options(self) -> Mapping[str, Any]:
        """What the ratings depend on: the judging model, and whether it sees the reference."""
        return {"judge": self._asking.pool.model, "reference": self.reference}

    async def score(self, dataset: Dataset, report: Report = silent) -> Dataset:
        """The dataset with its quality filled; see the class and `Metric.score`.

        Raises DataError if no row is rated throughout, and what the judge's pool raises.
        """
        references = dataset.references if self.reference and dataset.references else (None,) * len(dataset)
        prompts = [
            rating_prompt(dataset.queries[row], text, references[row])
            for pool in dataset.pools.values()
            for row, texts in enumerate(pool.texts)
            for text in texts
        ]
        replies = await self._asking.replies(prompts, lambda line: report(f"{self.name}: {line}"))
        unread = [reply for reply in replies if read_rating(reply) is None]
        quality, at = {}, 0
        for name, pool in dataset.pools.items():
            quality[name] = _qualities(replies[at : at + pool.quality.size]).reshape(pool.quality.shape)
            at += pool.quality.size
        told = {"judged": len(replies), "cost_usd": self._asking.cost_usd}
        return judged_rows(with_quality(dataset, quality, self, told), unread, report)


def _qualities(replies: Sequence[str]) -> Floats:
    lowest, highest = RATINGS
    ratings = (read_rating(reply) for reply in replies)
    return np.array([np.nan if r is None else (r - lowest) / (highest - lowest) for r in ratings], dtype=np.float64)
