"""A trained answer scorer (FrugalGPT): how likely an answer is right, from the texts of query and answer alone.

Chen, Zaharia & Zou 2024 (arXiv 2305.05176, section 3) fine-tune DistilBERT on query + answer. Here a logistic head
is on top of the frozen sentence encoder that the routers share: a few hundred labelled answers are too few to
fine-tune on, the head is fitted in a second on CPU, and a router may have computed a served query's vector already.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.cascade.base import Needs
from serve_app.cascade.signals.combined import choose_strength
from serve_app.data.answers import AnswerEvidence
from serve_app.errors import ConfigError, InsufficientData
from serve_app.learning.logistic import fit_soft

if TYPE_CHECKING:
    from serve_app.learning.encoder import SentenceEncoder

_STRENGTHS: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverse L2 penalties that are tried; log loss out of fold chooses."""
_FEWEST: Final = 100
"""Answers required to fit several hundred weights."""
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True, eq=False)
class AnswerScorer:
    """Log-odds that the answer is right: a linear head on the unit vectors of query and answer and their product.

    `weights` has shape [3 * dimensions]; `encoder` and `digest` name the encoder that they are for.
    """

    encoder: str
    digest: str
    weights: Floats
    bias: float
    name: ClassVar[str] = "answer_scorer"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        if self.weights.ndim != 1 or len(self.weights) % 3 or not np.isfinite(self.weights).all():
            raise ConfigError("answer_scorer: weights must be finite, three for each dimension of the encoder")

    def value(self, evidence: AnswerEvidence) -> float:
        """Log-odds; nan for an answer without text. Loads the encoder at first use."""
        return float(self.values([evidence])[0])

    def values(self, answers: Sequence[AnswerEvidence]) -> Floats:
        """`value` of many answers, shape [n]."""
        from serve_app.learning.encoder import load_encoder

        silent = np.array([not j.text.strip() for j in answers], dtype=bool)
        found = features(load_encoder(self.encoder), answers) @ self.weights + self.bias
        return np.where(silent, np.nan, found)


def features(encoder: "SentenceEncoder", answers: Sequence[AnswerEvidence]) -> Floats:
    """Vectors of query, answer and their product, shape [n, 3 * dimensions]."""
    queries = encoder.embed([j.query.text for j in answers]).astype(np.float64)
    texts = encoder.embed([j.text for j in answers]).astype(np.float64)
    return np.concatenate([queries, texts, queries * texts * np.sqrt(encoder.dimensions)], axis=1)


def fit_answer_scorer(
    answers: Sequence[AnswerEvidence], ok: Floats, encoder: "SentenceEncoder", seed: int = 0
) -> tuple[AnswerScorer, Floats]:
    """A scorer, and the out-of-fold log-odds [n] of the answers, to calibrate and combine on.

    Raises InsufficientData for too few answers or all alike, DependencyError without scikit-learn.
    """
    if len(ok) < _FEWEST or ok.min() == ok.max():
        raise InsufficientData(
            f"an answer scorer requires at least {_FEWEST} answers, right and wrong ones; there are {len(ok)}, "
            f"{100 * float(ok.mean()) if len(ok) else 0:.0f} % right: collect more"
        )
    x = features(encoder, answers)
    strength, outside = choose_strength(_log_odds, x, ok, _STRENGTHS, seed)
    weights, bias = fit_soft(x, ok, strength)
    silent = np.array([not answer.text.strip() for answer in answers])
    scorer = AnswerScorer(encoder.name, encoder.digest, np.round(weights, _DIGITS), bias)
    return scorer, np.where(silent, np.nan, outside)


def _log_odds(x: Floats, ok: Floats, strength: float) -> Callable[[Floats], Floats]:
    weights, bias = fit_soft(x, ok, strength)
    return lambda others: others @ weights + bias
