"""A language model as judge of two answers at a time, asked in both orders."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.errors import DataError
from serve_app.learning.dataset import Dataset
from serve_app.learning.preferences import Preferences
from serve_app.learning.quality.asking import Asking
from serve_app.learning.quality.base import UNIT, Range, Report, silent, with_quality
from serve_app.learning.quality.judge_prompts import Verdict, read_verdict, verdict_prompt
from serve_app.learning.quality.judged import judged_rows
from serve_app.pools.base import Pool

_FOR_A: Mapping[tuple[Verdict, Verdict], float] = {("first", "second"): 1.0, ("second", "first"): 0.0}
"""Outcome for a of the verdicts on (a, b) and on (b, a); every other pair of verdicts is a tie."""


@dataclass(frozen=True, slots=True)
class Match:
    """One answer of pool `a` against one of pool `b`, to one query; `sample_a` and `sample_b` say which."""

    row: int
    a: str
    sample_a: int
    b: str
    sample_b: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Matches with both verdicts: `forward` on (a, b), `backward` on (b, a); None where a reply held none.

    Two equal answers are a tie that nobody was asked about (`equal`).
    """

    dataset: Dataset
    matches: tuple[Match, ...]
    forward: tuple[Verdict | None, ...]
    backward: tuple[Verdict | None, ...]
    equal: tuple[bool, ...]
    unread: tuple[str, ...]

    @property
    def outcomes(self) -> list[float | None]:
        """For each match 1 if a won in both orders, 0 if b did, 0.5 otherwise; None if a verdict is missing."""
        return [
            None if f is None or b is None else _FOR_A.get((f, b), 0.5)
            for f, b in zip(self.forward, self.backward, strict=True)
        ]

    def bias(self) -> dict[str, float | int]:
        """Position bias over the matches that were asked about and answered in both orders, as shares of them.

        `flipped`: the two orders disagree (they count as ties); `first_twice` and `second_twice`: the judge chose the
        same position both times, whoever stood there. Shares are 0 where no match was asked about.
        """
        orders = zip(self.forward, self.backward, self.equal, strict=True)
        asked = [(f, b) for f, b, equal in orders if not equal and f is not None and b is not None]
        steady = {("first", "second"), ("second", "first"), ("tie", "tie")}
        shares = {
            "flipped": sum(pair not in steady for pair in asked),
            "first_twice": asked.count(("first", "first")),
            "second_twice": asked.count(("second", "second")),
        }
        return {"asked": len(asked), **{name: count / len(asked) if asked else 0.0 for name, count in shares.items()}}

    def preferences(self) -> Preferences:
        """One battle a match, in order; matches without a verdict are left out."""
        kept = [(match, o) for match, o in zip(self.matches, self.outcomes, strict=True) if o is not None]
        models = {name: pool.model for name, pool in self.dataset.pools.items()}
        return Preferences(
            queries=tuple(self.dataset.queries[match.row] for match, _ in kept),
            model_a=tuple(models[match.a] for match, _ in kept),
            model_b=tuple(models[match.b] for match, _ in kept),
            outcome=np.array([outcome for _, outcome in kept], dtype=np.float64),
        )


class PairwiseJudge:
    """Compares the pools' answers in pairs, each pair in both orders (Zheng et al. 2023, sections 3.1 and 3.4).

    An answer wins only if it wins in both orders; verdicts that change with the order are a tie, and their share is
    the position bias told in `about["metric_told"]["position_bias"]`. Quality is an answer's mean over its matches: 1
    for a win, 0.5 for a tie, 0 for a loss. Sample i of one pool meets sample i of every other; a pool with fewer
    samples starts over. Answers left without a match by unreadable replies take their row out, see `Judge`.
    """

    name = "judge_pairwise"
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
        """What the verdicts depend on: the judging model, and whether it sees the reference."""
        return {"judge": self._asking.pool.model, "reference": self.reference}

    async def score(self, dataset: Dataset, report: Report = silent) -> Dataset:
        """The dataset with its quality filled. Raises DataError if no row is left, and what the judge's pool raises."""
        judged = await self.judge(dataset, report)
        points: dict[str, Any] = {name: np.zeros(pool.quality.shape) for name, pool in dataset.pools.items()}
        counts: dict[str, Any] = {name: np.zeros(pool.quality.shape) for name, pool in dataset.pools.items()}
        for match, outcome in zip(judged.matches, judged.outcomes, strict=True):
            if outcome is not None:
                for name, sample, won in ((match.a, match.sample_a, outcome), (match.b, match.sample_b, 1 - outcome)):
                    points[name][match.row, sample] += won
                    counts[name][match.row, sample] += 1
        quality = {
            name: np.where(counts[name] > 0, points[name] / np.maximum(counts[name], 1), np.nan) for name in points
        }
        told = {
            "matches": len(judged.matches),
            "equal_answers": sum(judged.equal),
            "position_bias": judged.bias(),
            "cost_usd": self._asking.cost_usd,
        }
        return judged_rows(with_quality(dataset, quality, self, told), judged.unread, report)

    async def judge(self, dataset: Dataset, report: Report = silent) -> Judged:
        """Every match of the dataset with its two verdicts. Raises DataError if there are no two pools to compare."""
        if len(dataset.pools) < 2:
            raise DataError(f"the dataset has one pool, {', '.join(dataset.pools)}; {self.name!r} compares two or more")
        references = dataset.references if self.reference and dataset.references else (None,) * len(dataset)
        matches = tuple(matches_of(dataset))
        texts = [
            (dataset.pools[m.a].texts[m.row][m.sample_a], dataset.pools[m.b].texts[m.row][m.sample_b]) for m in matches
        ]
        equal = tuple(a == b for a, b in texts)
        prompts: list[str] = []
        for match, (a, b), same in zip(matches, texts, equal, strict=True):
            if not same:
                query, reference = dataset.queries[match.row], references[match.row]
                prompts += [verdict_prompt(query, a, b, reference), verdict_prompt(query, b, a, reference)]
        replies = await self._asking.replies(prompts, lambda line: report(f"{self.name}: {line}"))
        verdicts = iter([read_verdict(reply) for reply in replies])
        both: list[tuple[Verdict | None, Verdict | None]] = [
            ("tie", "tie") if same else (next(verdicts), next(verdicts)) for same in equal
        ]
        unread = tuple(reply for reply in replies if read_verdict(reply) is None)
        return Judged(dataset, matches, tuple(f for f, _ in both), tuple(b for _, b in both), equal, unread)


def matches_of(dataset: Dataset) -> Iterator[Match]:
    """Every two pools meet on every row, sample by sample."""
    samples = {name: pool.quality.shape[1] for name, pool in dataset.pools.items()}
    for row in range(len(dataset)):
        for a, b in combinations(dataset.pools, 2):
            for i in range(max(samples[a], samples[b])):
                yield Match(row, a, i % samples[a], b, i % samples[b])
