"""A router whose weights another process holds: its name and placement, for the one that decides with its scores."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.routing.base import Placement, Report, silent
from serve_app.types import Query


class Elsewhere:
    """Stands for a router whose weights only the Scorer holds."""

    def __init__(self, name: str, placement: Placement) -> None:
        self.name = name
        self.placement = placement

    params: Mapping[str, Any] = {}

    def fit(self, dataset: Any, report: Report = silent) -> Self:
        """Raises ConfigError."""
        raise self._error()

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Raises ConfigError."""
        raise self._error()

    def explain(self, query: Query) -> Mapping[str, float]:
        """Nothing is known of it here."""
        return {}

    def save(self, directory: Any) -> None:
        """Raises ConfigError."""
        raise self._error()

    @classmethod
    def load(cls, directory: Any) -> Self:
        """Raises ConfigError."""
        raise ConfigError("a router that is elsewhere is loaded by the Scorer")

    def _error(self) -> ConfigError:
        return ConfigError(f"router {self.name} is loaded by the Scorer, not here")
