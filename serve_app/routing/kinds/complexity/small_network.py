"""A network of one hidden layer over named features, for labels that are probabilities. scikit-learn trains it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.errors import needs_extra
from serve_app.learning.logistic import Rows, log_loss, matrix_of, one_class, smoothed_log_odds, soft_rows

_HIDDEN = 16
_PENALTY = 0.1
"""L2 penalty; of 0.001, 0.01, 0.1 and 1 the last two lost least on the lab's queries. 32 units gained nothing."""
_EPOCHS = 200
_PATIENCE = 8
"""Epochs without a smaller loss on the fold that is held back, after which training stops."""
_RATE = 0.003


@dataclass(frozen=True, slots=True)
class SmallNetwork:
    """Log-odds = output · relu(features · hidden + hidden_bias) + bias; features that are absent are 0.

    `names` [d] in the order of the rows of `hidden` [d, h]; `output` [h]. Scales of the features are in the weights.
    """

    names: tuple[str, ...]
    hidden: Floats
    hidden_bias: Floats
    output: Floats
    bias: float

    def log_odds(self, features: Mapping[str, float], place: Mapping[str, int]) -> float:
        """Of named features; `place` is `places()`, kept by the caller."""
        inner = self._reached(features, place) + self.hidden_bias
        return float(np.maximum(inner, 0.0) @ self.output) + self.bias

    def contributions(self, features: Mapping[str, float], place: Mapping[str, int]) -> dict[str, float]:
        """What each feature adds to the log-odds; with `bias`, those of no features at all, they add up to them.

        Integrated gradients from nothing to the features (Sundararajan et al. 2017): along that way each unit of the
        hidden layer is linear, and on for a share of it that is known exactly.
        """
        reached = self._reached(features, place)
        slopes = self.output * _share_on(self.hidden_bias, reached)
        terms = {name: float(value * (self.hidden[place[name]] @ slopes)) for name, value in _known(features, place)}
        terms["bias"] = float(np.maximum(self.hidden_bias, 0.0) @ self.output) + self.bias
        return terms

    def places(self) -> dict[str, int]:
        """Row of each feature in `hidden`."""
        return {name: row for row, name in enumerate(self.names)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All but the names, to be saved."""
        return {
            "hidden": self.hidden.astype(np.float32),
            "hidden_bias": self.hidden_bias,
            "output": self.output,
            "bias": np.array(self.bias),
        }

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> "SmallNetwork":
        """What was saved. Raises KeyError or ValueError if it does not fit together."""
        hidden, output = arrays["hidden"].astype(np.float64), arrays["output"].astype(np.float64)
        hidden_bias = arrays["hidden_bias"].astype(np.float64)
        if hidden.shape != (len(names), len(output)) or hidden_bias.shape != output.shape:
            raise ValueError("names and layers do not fit together")
        return cls(tuple(str(name) for name in names), hidden, hidden_bias, output, float(arrays["bias"]))

    def _reached(self, features: Mapping[str, float], place: Mapping[str, int]) -> Floats:
        known = _known(features, place)
        if not known:
            return np.zeros_like(self.hidden_bias)
        rows = self.hidden[[place[name] for name, _ in known]]
        reached: Floats = np.array([value for _, value in known]) @ rows
        return reached


def fit_network(
    rows: Rows, dense: Sequence[str], named: Sequence[str], outcomes: Floats, folds: NDArray[np.int64], seed: int = 0
) -> SmallNetwork:
    """Trained on features, outcomes in [0, 1] and folds, both [n], as `fit_logistic` takes them.

    One class alone gives no weights and a smoothed bias. Raises DependencyError without scikit-learn.
    """
    names = (*dense, *named)
    if one_class(outcomes):
        return SmallNetwork(names, np.zeros((len(names), 1)), np.zeros(1), np.zeros(1), smoothed_log_odds(outcomes))
    matrix, mean, scale = matrix_of(rows, dense, named)
    layers = _trained(matrix, outcomes, folds, seed)
    hidden = layers.hidden.copy()
    hidden[: len(dense)] /= scale[:, None]
    hidden = hidden.astype(np.float32).astype(np.float64)  # as it is saved, so that what is loaded scores the same
    hidden_bias = layers.hidden_bias - mean @ hidden[: len(dense)]
    return SmallNetwork(names, hidden, hidden_bias, layers.output, layers.bias)


@dataclass(frozen=True, slots=True)
class _Layers:
    """The weights of scikit-learn's network at one epoch."""

    hidden: Floats
    hidden_bias: Floats
    output: Floats
    bias: float

    @classmethod
    def of(cls, model: Any) -> "_Layers":
        (hidden, output), (hidden_bias, bias) = model.coefs_, model.intercepts_
        return cls(hidden.copy(), hidden_bias.copy(), output[:, 0].copy(), float(bias[0]))

    def loss(self, matrix: Any, outcomes: Floats) -> float:
        """Mean log loss."""
        log_odds = np.maximum(matrix @ self.hidden + self.hidden_bias, 0.0) @ self.output + self.bias
        return log_loss(log_odds, outcomes)


def _trained(matrix: Any, outcomes: Floats, folds: NDArray[np.int64], seed: int) -> _Layers:
    """Layers with the least log loss on one fold that is held back."""
    with needs_extra("training a router needs scikit-learn", "train"):
        from sklearn.neural_network import MLPClassifier

    held = folds == folds.max()
    if held.all():
        held = np.zeros_like(held)
    rows, labels, weights = soft_rows(matrix[~held], outcomes[~held])
    model = MLPClassifier((_HIDDEN,), alpha=_PENALTY, learning_rate_init=_RATE, random_state=seed)
    best: _Layers | None = None
    least, waited = np.inf, 0
    for _ in range(_EPOCHS):
        model.partial_fit(rows, labels, classes=(0.0, 1.0), sample_weight=weights)
        found = _Layers.of(model)
        loss = found.loss(matrix[held], outcomes[held]) if held.any() else model.loss_
        waited += 1
        if loss < least:
            best, least, waited = found, loss, 0
        if waited == _PATIENCE:
            break
    assert best is not None
    return best


def _known(features: Mapping[str, float], place: Mapping[str, int]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in features.items() if value and name in place]


def _share_on(start: Floats, gain: Floats) -> Floats:
    """Share of t in [0, 1] at which start + t * gain > 0, for each unit."""
    end = start + gain
    moved = np.where(gain == 0.0, 1.0, gain)
    crossing = np.clip(-start / moved, 0.0, 1.0)
    share = np.where(start > 0, np.where(end > 0, 1.0, crossing), np.where(end > 0, 1.0 - crossing, 0.0))
    return np.asarray(share, dtype=np.float64)
