"""Hybrid LLM's three routers: the chance that the small model's answer is good enough, read by a fine-tuned encoder.

Ding et al. 2024, "Hybrid LLM: Cost-Efficient and Quality-Aware Query Routing" (arXiv 2404.14618), section 3. With the
quality gap H(x) = q(S(x)) - q(L(x)) between a small and a large model's sampled answers, the labels are

    r_det    1 if H(x) >= 0, by one answer of each                                    (section 3.1)
    r_prob   Pr[H(x) >= 0], over all pairs of samples                                 (section 3.2)
    r_trans  Pr[H(x) >= -t*], relaxed so that the labels are spread the most          (section 3.3)

and the loss is cross-entropy against them. The paper's router scores high where the small model will do; `score` here
is, as every router's, the strong win rate: 1 minus the paper's.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset
from serve_app.learning.encoder import DEFAULT
from serve_app.learning.finetune import Recipe
from serve_app.learning.text_classifier import Setting, TextClassifier
from serve_app.routing.artefact import read_json
from serve_app.routing.base import Placement, Report, silent
from serve_app.types import Query

FORMAT = 1
Floats = NDArray[np.float64]
_CANDIDATES = 200
"""Relaxations tried at most: quantiles of the gaps that were seen, if these are more."""


class HybridRouter:
    """One router of the paper; the subclass says by which labels.

    Any Hugging Face encoder by folder, `minilm`, or a small one trained from nothing (`small-from-scratch`).
    `train_layers` counts the encoder's layers that are fine-tuned, from its end; None is all of it, as in the paper.
    Learned: `classifier_`, `relaxation_` (t, 0 but for r_trans; in the unit of the quality metric).
    """

    name: ClassVar[str]
    placement: Placement = "batched"

    def __init__(
        self,
        seed: int = 0,
        *,
        encoder: str = DEFAULT,
        train_layers: int | None = 2,
        epochs: int = 6,
        learning_rate: float = 3e-4,
        max_tokens: int = 256,
    ) -> None:
        self.seed = seed
        self.encoder = encoder
        self.train_layers = train_layers
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.max_tokens = max_tokens
        self.classifier_: TextClassifier | None = None
        self.relaxation_ = 0.0

    @property
    def params(self) -> Mapping[str, Any]:
        """The constructor's arguments."""
        return {
            "seed": self.seed,
            "encoder": self.encoder,
            "train_layers": self.train_layers,
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "max_tokens": self.max_tokens,
        }

    def labels(self, dataset: Dataset) -> tuple[Floats, float]:
        """P(small is good enough) of each query, shape [n], and the relaxation t that it is relative to."""
        raise NotImplementedError

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        """Fine-tune on the labels of all queries; stops early on texts that it holds back.

        Raises ConfigError for an empty dataset, or one whose answers are not scored.
        """
        if len(dataset) == 0:
            raise ConfigError(f"{self.name}: the dataset is empty; collect answers first")
        if np.isnan(dataset.weak.quality).any() or np.isnan(dataset.strong.quality).any():
            raise ConfigError(f"{self.name}: the answers have no quality yet; score the dataset first")
        good, relaxation = self.labels(dataset)
        report(f"{self.name}: {len(dataset):,} queries, mean label {good.mean():.3f}, t {relaxation:.4g}")
        texts = [query.text for query in dataset.queries]
        recipe = Recipe(self.epochs, self.learning_rate, self.seed)
        self.classifier_ = TextClassifier.fit(
            self._setting, texts, np.stack([1.0 - good, good], axis=1), recipe, report
        )
        self.relaxation_ = relaxation
        return self

    def score(self, queries: Sequence[Query]) -> Floats:
        """Strong win rates, shape [len(queries)]: 1 - P(small is good enough)."""
        return self._fitted("scoring").probabilities([query.text for query in queries])[:, 0]

    def explain(self, query: Query) -> Mapping[str, float]:
        """How far each word moves the score's log-odds, by leaving it out; largest first."""
        return self._fitted("explaining").explain(query.text, 0)

    def save(self, directory: Path) -> None:
        """Write `router.json` and the fine-tuned weights."""
        kept = self._fitted("saving").save(directory)
        body = {
            "format": FORMAT,
            "kind": self.name,
            "params": dict(self.params),
            "relaxation": self.relaxation_,
            "classifier": dict(kept),
        }
        (directory / "router.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The router saved there. Raises ConfigError naming the file and the mend."""
        path = directory / "router.json"
        body = read_json(path, kind=cls.name, version=FORMAT)
        try:
            router = cls(**body["params"])
            router.relaxation_ = float(body["relaxation"])
            router.classifier_ = TextClassifier.load(directory, router._setting, body["classifier"])
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigError(f"{path}: cannot be read ({e!r}); train and save the router again") from e
        return router

    @property
    def _setting(self) -> Setting:
        return Setting(self.encoder, self.train_layers, self.max_tokens)

    def _fitted(self, before: str) -> TextClassifier:
        if self.classifier_ is None:
            raise ConfigError(f"{self.name}: the router is not fitted; fit or load it before {before}")
        return self.classifier_


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
