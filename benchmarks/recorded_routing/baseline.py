"""The baseline to beat: plain logistic regression on sentence vectors."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.encoder import load_encoder
from serve_app.routing.base import Report, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve_app.data.dataset import Dataset
    from serve_app.types import Query


class LogisticBaseline:
    """P(the strong model alone is right) by scikit-learn's logistic regression with its defaults, on unit vectors."""

    def __init__(self) -> None:
        self._model: Any = None
        self._one_class: float | None = None

    def fit(self, dataset: "Dataset", report: Report = silent) -> Self:
        """From queries and both pools' answers."""
        from sklearn.linear_model import LogisticRegression

        vectors = load_encoder().embed([q.text for q in dataset.queries])
        wins = dataset.strong_win_rate() > 0.5
        self._one_class = float(wins[0]) if wins.all() or not wins.any() else None
        if self._one_class is None:
            self._model = LogisticRegression(max_iter=1000).fit(vectors, wins)
        return self

    def score(self, queries: "Sequence[Query]") -> NDArray[np.float64]:
        """Shape [len(queries)]."""
        if self._one_class is not None:
            return np.full(len(queries), self._one_class)
        vectors = load_encoder().embed([q.text for q in queries])
        scores: NDArray[np.float64] = self._model.predict_proba(vectors)[:, 1].astype(np.float64)
        return scores
