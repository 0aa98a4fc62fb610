"""The contract of every router, after scikit-learn's estimators."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.types import Query

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset

Placement = Literal["inline", "batched", "scorer"]
"""Where a router scores: at once in the Gateway's loop, in batches on its encoder thread, or in the Scorer."""
Report = Callable[[str], None]


def silent(line: str) -> None:
    """Drops the line."""


def largest_first(terms: Mapping[str, float]) -> dict[str, float]:
    """Contributions in descending order of size."""
    return dict(sorted(terms.items(), key=lambda term: -abs(term[1])))


def summed(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, float]:
    """The sum of the values of each name; both in the same order."""
    sums: dict[str, float] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        sums[name] = sums.get(name, 0.0) + value
    return sums


class Router(Protocol):
    """Estimates the strong win rate: P(the strong model's answer is better than the weak one's), in [0, 1].

    It says nothing of cost; a Threshold decides. Constructors store hyper-parameters; learned values end in `_`;
    `fit` with the same seed gives the same router; scoring before fit raises ConfigError.
    """

    name: str
    """The kind, as the registry knows it."""
    placement: Placement

    @property
    def params(self) -> Mapping[str, Any]:
        """The constructor's keyword arguments as JSON-ready values: `type(self)(**params)` is this router unfitted."""

    def fit(self, dataset: "Dataset", report: Report = silent) -> Self:
        """Learn from queries with the quality of each pool's answers; forgets what was learned before.

        Long fits `report` their progress a line at a time and stop early on queries they hold back themselves.
        Raises ConfigError if the data cannot teach it (no queries, one class alone where two are needed).
        """

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""

    def explain(self, query: Query) -> Mapping[str, float]:
        """Signed contributions to this query's score in log-odds, by feature, largest in size first."""

    def save(self, directory: Path) -> None:
        """JSON and safetensors or npz, with a format version."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The router saved there. Raises ConfigError naming the file and what to do."""
