"""Routers on a fine-tuned encoder, which differ in their labels alone: Hybrid LLM's three and RouteLLM's `bert`.

Hybrid LLM (Ding et al. 2024, arXiv 2404.14618, section 3) estimates the probability that the small model's answer is
good enough. With the quality gap H(x) = q(S(x)) - q(L(x)) between a small and a large model's sampled answers, the
labels are

    r_det    1 if H(x) >= 0, by one answer of each                                    (section 3.1)
    r_prob   Pr[H(x) >= 0], over all pairs of samples                                 (section 3.2)
    r_trans  Pr[H(x) >= -t*], relaxed so that the labels are spread the most          (section 3.3)

and the loss is cross-entropy against them. The paper's router scores high where the small model suffices; `score` here
is, as every router's, the strong win rate: 1 minus the paper's.

RouteLLM's `bert` (Ong et al. 2024, arXiv 2406.18665, section 4.2) classifies preference data into strong wins, tie, and
weak wins; the strong win rate is 1 minus the probabilities of the other two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.learning.encoder import DEFAULT
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, silent
from serve_app.routing.kinds.fine_tuned.finetune import Recipe
from serve_app.routing.kinds.fine_tuned.text_classifier import Setting, TextClassifier
from serve_app.types import Query


@dataclass(eq=False)
class FineTunedRouter(LearnedRouter):
    """Strong win rate as the probability of class 0 that a fine-tuned encoder gives to the whole conversation.

    `encoder` is `minilm`, the folder of any Hugging Face encoder, or `small-from-scratch` (a small BERT trained from
    nothing on these queries; `scratch-3x64` for three layers of width 64). `train_layers` counts the layers that are
    fine-tuned, from the encoder's end; None is all of it. Of a conversation beyond `max_tokens` the end is read.
    Learned: `classifier_`. With `checkpoint`, a folder, a killed `fit` resumes.
    """

    seed: int = 0
    _: KW_ONLY
    encoder: str = DEFAULT
    train_layers: int | None = 2
    epochs: int = 6
    learning_rate: float = 3e-4
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.learning_rate <= 0 or self.max_tokens < 8:
            raise ConfigError(
                f"{self.name}: epochs is {self.epochs}, learning_rate {self.learning_rate}, max_tokens "
                f"{self.max_tokens}; give at least 1, more than 0 and at least 8"
            )
        self.setting = Setting(self.encoder, self.train_layers, self.max_tokens)
        self.recipe = Recipe(self.epochs, self.learning_rate, self.seed)
        self.checkpoint: Path | None = None
        self.classifier_: TextClassifier | None = None

    def targets(self, dataset: Dataset, report: Report) -> tuple[list[str], Floats]:
        """Texts, and labels of shape [len(texts), classes], each row a distribution; class 0 is a strong win.

        Raises ConfigError if the dataset has none.
        """
        raise NotImplementedError

    def learned(self) -> Mapping[str, Any]:
        """Learned values other than the classifier, JSON-ready."""
        return {}

    def recall(self, learned: Mapping[str, Any]) -> None:
        """Restore the values that `learned` returned."""

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        """Fine-tune on the dataset's labels; stops early on texts that it holds back.

        Raises ConfigError for an empty dataset, or one whose answers are not scored.
        """
        if len(dataset) == 0:
            raise ConfigError(f"{self.name}: the dataset is empty; collect answers first")
        texts, labels = self.targets(dataset, report)
        self.classifier_ = TextClassifier.fit(self.setting, texts, labels, self.recipe, report, self.checkpoint)
        return self

    def score(self, queries: Sequence[Query]) -> Floats:
        """Strong win rates, shape [len(queries)]."""
        return self._need(self.classifier_, "scoring").probabilities([query.text for query in queries])[:, 0]

    def explain(self, query: Query) -> Mapping[str, float]:
        """How far each word moves the score's log-odds, by leaving it out; largest first."""
        return self._need(self.classifier_, "explaining").explain(query.text, 0)

    def save(self, directory: Path) -> None:
        """Write `router.json` and the fine-tuned weights (half precision)."""
        kept = self._need(self.classifier_, "saving").save(directory)
        body = {"params": dict(self.params), "learned": dict(self.learned()), "classifier": dict(kept)}
        self._write(directory, body, indent=1)

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        self.recall(body["learned"])
        self.classifier_ = TextClassifier.load(files.folder, self.setting, body["classifier"])


_CANDIDATES = 200
"""Most relaxations to try: quantiles of the observed gaps, if there are more."""


class HybridRouter(FineTunedRouter):
    """One router of the paper; the subclass says by which labels.

    Learned: `relaxation_` (t, 0 but for r_trans; in the unit of the quality metric). The paper fine-tunes all of
    DeBERTa-v3-large; any encoder's folder can be given, with `train_layers=None` for all of it.
    """

    relaxation_ = 0.0

    def labels(self, dataset: Dataset) -> tuple[Floats, float]:
        """P(small is good enough) of each query, shape [n], and the relaxation t that it is relative to."""
        raise NotImplementedError

    def targets(self, dataset: Dataset, report: Report) -> tuple[list[str], Floats]:
        """Two classes: large is better, small is good enough."""
        if np.isnan(dataset.weak.quality).any() or np.isnan(dataset.strong.quality).any():
            raise ConfigError(f"{self.name}: the answers have no quality yet; score the dataset first")
        good, self.relaxation_ = self.labels(dataset)
        report(f"{self.name}: {len(dataset):,} queries, mean label {good.mean():.3f}, t {self.relaxation_:.4g}")
        return [query.text for query in dataset.queries], np.stack([1.0 - good, good], axis=1)

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


@dataclass(eq=False)
class BertRouter(FineTunedRouter):
    """Score = 1 - P(tie or weak wins), from battles of the pair.

    Battles are the pools' own answers, one a query by mean quality (a tie where both differ by at most `margin`), and
    those of `dataset.preferences` that are fought between these two models; others say nothing of this pair to a
    classifier that sees the query alone.
    """

    name = "bert"

    _: KW_ONLY
    margin: float = 0.0

    def targets(self, dataset: Dataset, report: Report) -> tuple[list[str], Floats]:
        """Three classes: strong wins, tie, weak wins."""
        weak, strong = dataset.weak.model, dataset.strong.model
        battles = dataset.battles(self.margin).plus(dataset.preferences)
        orientation = [
            1 if (a, b) == (strong, weak) else -1 if (a, b) == (weak, strong) else 0
            for a, b in zip(battles.model_a, battles.model_b, strict=True)
        ]
        rows = np.flatnonzero(orientation)
        if len(rows) == 0:
            raise ConfigError(f"bert: no battle of {strong!r} and {weak!r}; score the dataset, or give preferences")
        # outcome 1 is a win of model a: of the strong one if the orientation is 1
        won = 0.5 + (battles.outcome[rows] - 0.5) * np.array(orientation)[rows]
        labels = np.stack([won == 1.0, won == 0.5, won == 0.0], axis=1).astype(np.float64)
        report(
            f"bert: {len(rows):,} battles, {len(battles) - len(rows):,} of other models left out; strong wins "
            f"{100 * labels[:, 0].mean():.1f} %, ties {100 * labels[:, 1].mean():.1f} %"
        )
        return [battles.queries[i].text for i in rows], labels
