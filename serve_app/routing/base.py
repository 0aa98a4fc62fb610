"""The contract of every router, after scikit-learn's estimators."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.types import Query

if TYPE_CHECKING:
    from serve_app.learning.dataset import Dataset


class Router(Protocol):
    """Estimates the strong win rate: P(the strong model's answer is better than the weak one's), in [0, 1].

    It says nothing of cost; a Threshold decides. Constructors store hyper-parameters; learned values end in `_`;
    `fit` with the same seed gives the same router; scoring before fit raises ConfigError.
    """

    name: str

    def fit(self, dataset: "Dataset") -> Self:
        """Learn from queries with the quality of each pool's answers; forgets what was learned before."""

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""

    def explain(self, query: Query) -> Mapping[str, float]:
        """What moved this query's score: signed contributions in log-odds by feature, largest first."""

    def save(self, directory: Path) -> None:
        """JSON and safetensors or npz, with a format version."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The router saved there. Raises ConfigError naming the file and the mend."""
