"""Hybrid LLM's three routers: the chance that the small model's answer is good enough, read by a fine-tuned encoder.

Ding et al. 2024, "Hybrid LLM: Cost-Efficient and Quality-Aware Query Routing" (arXiv 2404.14618), section 3. With the
quality gap H(x) = q(S(x)) - q(L(x)) between a small and a large model's sampled answers, the labels are

    r_det    1 if H(x) >= 0, by one answer of each                                    (section 3.1)
    r_prob   Pr[H(x) >= 0], over all pairs of samples                                 (section 3.2)
    r_trans  Pr[H(x) >= -t*], relaxed so that the labels are spread the most          (section 3.3)

and the loss is cross-entropy against them. The paper's router scores high where the small model will do; `score` here
is, as every router's, the strong win rate: 1 minus the paper's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset
from serve_app.routing.base import Report
from serve_app.routing.fine_tuned import FineTunedRouter, Targets

Floats = NDArray[np.float64]
_CANDIDATES = 200
"""Relaxations tried at most: quantiles of the gaps that were seen, if these are more."""


class HybridRouter(FineTunedRouter):
    """One router of the paper; the subclass says by which labels.

    Learned: `relaxation_` (t, 0 but for r_trans; in the unit of the quality metric). The paper fine-tunes all of
    DeBERTa-v3-large; any encoder's folder can be given, with `train_layers=None` for all of it.
    """

    relaxation_ = 0.0

    def labels(self, dataset: Dataset) -> tuple[Floats, float]:
        """P(small is good enough) of each query, shape [n], and the relaxation t that it is relative to."""
        raise NotImplementedError

    def targets(self, dataset: Dataset, report: Report) -> Targets:
        """Two classes: large is better, small is good enough."""
        if np.isnan(dataset.weak.quality).any() or np.isnan(dataset.strong.quality).any():
            raise ConfigError(f"{self.name}: the answers have no quality yet; score the dataset first")
        good, self.relaxation_ = self.labels(dataset)
        report(f"{self.name}: {len(dataset):,} queries, mean label {good.mean():.3f}, t {self.relaxation_:.4g}")
        return Targets([query.text for query in dataset.queries], np.stack([1.0 - good, good], axis=1))

    def learned(self) -> Mapping[str, Any]:
        """The relaxation."""
        return {"relaxation": self.relaxation_}

    def recall(self, learned: Mapping[str, Any]) -> None:
        """The relaxation."""
        self.relaxation_ = float(learned["relaxation"])


class HybridDet(HybridRouter):
    """r_det: hard labels of one answer each (section 3.1)."""

    name = "hybrid_det"

    def labels(self, dataset: Dataset) -> tuple[Floats, float]:
        """1 where the small model's first answer is no worse than the large one's."""
        return (dataset.weak.quality[:, 0] >= dataset.strong.quality[:, 0]).astype(np.float64), 0.0


class HybridProb(HybridRouter):
    """r_prob: soft labels over all pairs of samples (section 3.2)."""

    name = "hybrid_prob"

    def labels(self, dataset: Dataset) -> tuple[Floats, float]:
        """Share of sample pairs in which the small model's answer is no worse."""
        return relaxed_labels(gaps(dataset), 0.0), 0.0


class HybridTrans(HybridRouter):
    """r_trans: soft labels, relaxed where the small model rarely wins (section 3.3)."""

    name = "hybrid_trans"

    def labels(self, dataset: Dataset) -> tuple[Floats, float]:
        """Share of sample pairs in which the small model's answer is worse by no more than t*."""
        gap = gaps(dataset)
        relaxation = best_relaxation(gap)
        return relaxed_labels(gap, relaxation), relaxation


def gaps(dataset: Dataset) -> Floats:
    """H = q(small) - q(large) of all pairs of samples, shape [n, pairs]."""
    pairs = dataset.weak.quality[:, :, None] - dataset.strong.quality[:, None, :]
    return pairs.reshape(len(pairs), -1)


def relaxed_labels(gap: Floats, relaxation: float) -> Floats:
    """Pr[H >= -t] of each query, shape [n]; t is `relaxation`."""
    labels: Floats = (gap >= -relaxation).mean(axis=1)
    return labels


def best_relaxation(gap: Floats) -> float:
    """t*: the relaxation whose labels differ the most between queries, the smallest of equals (section 3.3, eq. 3).

    Labels change only where -t passes a gap, so the gaps below zero are the candidates, and no relaxation at all.
    Many are thinned to their quantiles.
    """
    candidates = np.unique(np.concatenate([[0.0], -gap[gap < 0.0]]))
    if len(candidates) > _CANDIDATES:
        candidates = np.unique(np.quantile(candidates, np.linspace(0.0, 1.0, _CANDIDATES), method="nearest"))
    spread = [mean_difference(relaxed_labels(gap, t)) for t in candidates]
    return float(candidates[int(np.argmax(spread))])


def mean_difference(labels: Floats) -> float:
    """(1 / n^2) * sum over i, j of |y_i - y_j|, from the sorted labels in O(n log n)."""
    n = len(labels)
    ranks = 2.0 * np.arange(1, n + 1) - n - 1
    return float(2.0 * (ranks * np.sort(labels)).sum() / (n * n))
