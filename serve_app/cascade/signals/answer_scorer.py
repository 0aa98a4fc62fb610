"""A trained answer scorer (FrugalGPT): how likely an answer is right, from the texts of query and answer alone.

Chen, Zaharia & Zou 2024 (arXiv 2305.05176, section 3) fine-tune DistilBERT on query + answer. Here a logistic head
stands on the frozen sentence encoder that the routers share: a few hundred labelled answers do not carry a fine-tuning,
the head is fitted in a second on CPU, and a served query's vector is there already where a router has scored it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.base import Needs
from serve_app.data.answers import AnswerEvidence
from serve_app.errors import ConfigError, InsufficientData
from serve_app.learning.logistic import fit_soft, log_loss

if TYPE_CHECKING:
    from serve_app.learning.encoder import SentenceEncoder

_STRENGTHS: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverse L2 penalties that are tried; log loss out of fold chooses."""
_FOLDS: Final = 5
_FEWEST: Final = 100
"""Answers that a head of several hundred weights takes at least."""
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

    def __post_init__(self) -> None:
        if self.weights.ndim != 1 or len(self.weights) % 3 or not np.isfinite(self.weights).all():
            raise ConfigError("answer_scorer: weights must be finite, three for each dimension of the encoder")

    @property
    def needs(self) -> Needs:
        """Nothing beside the texts."""
        return Needs()

    def value(self, judged: AnswerEvidence) -> float:
        """Log-odds; nan for an answer without text. Loads the encoder at first use."""
        return float(self.values([judged])[0])

    def values(self, judged: Sequence[AnswerEvidence]) -> Floats:
        """Of many answers at once, shape [n]."""
        from serve_app.learning.encoder import load_encoder

        silent = np.array([not j.text.strip() for j in judged], dtype=bool)
        found = features(load_encoder(self.encoder), judged) @ self.weights + self.bias
        return np.where(silent, np.nan, found)

    def check(self, where: str) -> None:
        """Load the encoder and compare. Raises ConfigError naming the mend, DependencyError without the packages."""
        from serve_app.learning.encoder import load_encoder

        now = load_encoder(self.encoder).digest
        if now != self.digest:
            raise ConfigError(
                f"{where}: answer_scorer was trained with encoder {self.encoder!r} of digest {self.digest}, but that "
                f"is now {now}; put the old encoder back or fit the cascade again"
            )

    def spec(self) -> dict[str, Any]:
        """JSON-ready."""
        weights = [round(w, _DIGITS) for w in self.weights.tolist()]
        return {
            "name": self.name,
            "encoder": self.encoder,
            "digest": self.digest,
            "weights": weights,
            "bias": self.bias,
        }

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """From its spec. Raises KeyError, TypeError or ValueError."""
        weights = np.array(spec["weights"], dtype=np.float64)
        return cls(str(spec["encoder"]), str(spec["digest"]), weights, float(spec["bias"]))


def features(encoder: "SentenceEncoder", judged: Sequence[AnswerEvidence]) -> Floats:
    """Vectors of query, answer and their product, shape [n, 3 * dimensions]."""
    queries = encoder.embed([j.query.text for j in judged]).astype(np.float64)
    answers = encoder.embed([j.text for j in judged]).astype(np.float64)
    return np.concatenate([queries, answers, queries * answers * np.sqrt(encoder.dimensions)], axis=1)


def fit_answer_scorer(
    judged: Sequence[AnswerEvidence], ok: Floats, encoder: "SentenceEncoder", seed: int = 0
) -> tuple[AnswerScorer, Floats]:
    """A scorer, and the log-odds [n] that fits without the row gave each answer (to calibrate and combine on).

    Raises InsufficientData for too few answers or all alike, DependencyError without scikit-learn.
    """
    if len(ok) < _FEWEST or ok.min() == ok.max():
        raise InsufficientData(
            f"an answer scorer takes at least {_FEWEST} answers, right and wrong ones; there are {len(ok)}, "
            f"{100 * float(ok.mean()) if len(ok) else 0:.0f} % right: collect more"
        )
    x = features(encoder, judged)
    folds = np.random.default_rng(seed).permutation(len(ok)) % _FOLDS
    outside = [_out_of_fold(x, ok, folds, strength) for strength in _STRENGTHS]
    best = int(np.argmin([log_loss(z, ok) for z in outside]))
    weights, bias = fit_soft(x, ok, _STRENGTHS[best])
    silent = np.array([not j.text.strip() for j in judged])
    scorer = AnswerScorer(encoder.name, encoder.digest, np.round(weights, _DIGITS), bias)
    return scorer, np.where(silent, np.nan, outside[best])


def _out_of_fold(x: Floats, ok: Floats, folds: NDArray[np.int64], strength: float) -> Floats:
    found = np.zeros(len(ok))
    for fold in range(_FOLDS):
        inside = folds == fold
        weights, bias = fit_soft(x[~inside], ok[~inside], strength)
        found[inside] = x[inside] @ weights + bias
    return found
