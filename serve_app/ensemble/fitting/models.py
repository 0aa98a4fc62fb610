"""What a ranker and a fuser make of recorded answers: every comparison and every fused answer is made once."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.ensemble.base import Comparison, Fuser, MemberCalls, Ranker
from serve_app.ensemble.fitting.answers import Answers
from serve_app.errors import ConfigError
from serve_app.grading import JUDGES, METRICS, get_metric

Report = Callable[[str], None]
_ROWS: Final = 128
"""Queries whose candidates share the passes of a ranker or fuser."""
_EVERY: Final = 8
"""Batches between two lines of progress."""


@dataclass(frozen=True, slots=True)
class FitModels:
    """A ranker and a fuser that a plan may use, with the folder or name under which it is to name them.

    `fuse_top`: best candidates that are fused.
    """

    ranker: Ranker | None = None
    ranker_name: str = ""
    fuser: Fuser | None = None
    fuser_name: str = ""
    fuse_top: int = 3


@dataclass(slots=True)
class RankedCandidates:
    """A ranker's logits of every two recorded answers to a query, made once for all queries, in shared batches.

    `samples`: of each member, at most.
    """

    answers: Answers
    ranker: Ranker
    samples: int
    report: Report
    _logits: list[dict[tuple[str, str], float]] = field(default_factory=list)

    def scores(self, row: int, texts: Sequence[str], members: Sequence[str]) -> Floats:
        """MaxLogits over distinct texts, answers of these members to the query of that row, as served; shape [n]."""
        if not self._logits:
            self._compare()
        known = self._logits[row]
        found = [2 * sum(_of(known, text, other) for other in texts if other != text) for text in texts]
        answers = self.answers
        models = [answers.models[answers.names.index(name)] for name in members] if answers.models else []
        return self.ranker.informed(np.array(found, dtype=np.float64), models)

    def _compare(self) -> None:
        calls = [MemberCalls(n, min(self.samples, self.answers.samples(n))) for n in self.answers.names]
        n = len(self.answers)
        for number, first in enumerate(range(0, n, _ROWS)):
            pairs: list[tuple[int, Comparison]] = []
            for row in range(first, min(n, first + _ROWS)):
                source = self.answers.queries[row].text
                texts = list(dict.fromkeys(one.candidate.text for one in self.answers.candidates(row, calls)))
                pairs += [(row, Comparison(source, a, b)) for i, a in enumerate(texts) for b in texts[:i]]
                self._logits.append({})
            logits = self.ranker.compare([pair for _, pair in pairs]).tolist() if pairs else []
            for (row, pair), logit in zip(pairs, logits, strict=True):
                self._logits[row][pair.left, pair.right] = float(logit)
            if number % _EVERY == _EVERY - 1 or len(self._logits) == n:
                self.report(f"ranked the answers to {len(self._logits):,} of {n:,} queries")


def _of(logits: Mapping[tuple[str, str], float], left: str, right: str) -> float:
    """Both orders are averaged: swapping negates."""
    return logits[left, right] if (left, right) in logits else -logits[right, left]


@dataclass(slots=True)
class FusedAnswers:
    """A fuser's answers with their quality by the metric that graded the answers, made once."""

    dataset: Dataset
    fuser: Fuser
    report: Report
    _found: dict[tuple[int, tuple[str, ...]], tuple[str, float]] = field(default_factory=dict)

    def of(self, rows: Mapping[int, Sequence[str]]) -> dict[int, tuple[str, float]]:
        """By row: the answer fused from its texts, the best first, or the best itself where nothing is fused."""
        requested = {row: tuple(texts) for row, texts in rows.items()}
        missing = [(row, texts) for row, texts in requested.items() if (row, texts) not in self._found]
        for number, first in enumerate(range(0, len(missing), _ROWS)):
            part = missing[first : first + _ROWS]
            sources = [self.dataset.queries[row].text for row, _ in part]
            fused = self.fuser.fuse(sources, [list(texts) for _, texts in part])
            said = [
                f.text if f.used and f.text.strip() else texts[0] for f, (_, texts) in zip(fused, part, strict=True)
            ]
            quality = self._graded([row for row, _ in part], said)
            self._found |= dict(zip(part, zip(said, quality.tolist(), strict=True), strict=True))
            if number % _EVERY == _EVERY - 1:
                self.report(f"fused {min(first + _ROWS, len(missing)):,} of {len(missing):,} sets of answers")
        return {row: self._found[row, texts] for row, texts in requested.items()}

    def _graded(self, rows: Sequence[int], texts: Sequence[str]) -> Floats:
        part = self.dataset.take(rows)
        zero = np.zeros((len(rows), 1))
        pool = PoolAnswers("", tuple((text,) for text in texts), zero, zero, zero, zero)
        metric = get_metric(str(part.about["metric"]), **dict(part.about.get("metric_options") or {}))
        graded = asyncio.run(metric.score(replace(part, pools={"fused": pool})))
        found: Floats = graded.pools["fused"].quality[:, 0]
        return found


def check_gradable(dataset: Dataset) -> None:
    """Raises ConfigError, saying why, where new answers to the queries cannot be graded as the recorded ones were."""
    metric = str(dataset.about.get("metric") or "")
    if metric not in METRICS or metric in JUDGES:
        what = f"by {metric!r}" if metric else "by no metric that is named"
        raise ConfigError(
            f"--fuser: the answers are scored {what}, which cannot grade a fused answer: score them with `jethro data "
            f"score --metric` {', '.join(name for name in METRICS if name not in JUDGES)}"
        )
    if not dataset.references or any(reference is None for reference in dataset.references):
        raise ConfigError("--fuser: fused answers are graded against right answers: give each query its reference")
