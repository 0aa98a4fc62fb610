"""Routers for tests of what trains and compares routers: they count, remember and fail, and learn nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.routing.base import Placement, Report, silent
from serve_app.types import Query


class LengthRouter:
    """Scores by the length of the query's text; keeps on the class what it was fitted on and what it scored."""

    name = "length"
    placement: Placement = "inline"
    fitted: ClassVar[list[tuple[str, ...]]] = []
    scored: ClassVar[list[tuple[str, ...]]] = []

    def __init__(self, scale: float = 20.0, seed: int = 0) -> None:
        if scale <= 0:
            raise ValueError(f"scale is {scale}, not positive")
        self.scale = scale
        self.seed = seed

    @property
    def params(self) -> Mapping[str, Any]:
        return {"scale": self.scale, "seed": self.seed}

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        type(self).fitted.append(tuple(q.text for q in dataset.queries))
        report("fitted")
        return self

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        type(self).scored.append(tuple(q.text for q in queries))
        return np.array([1 - np.exp(-len(q.text) / self.scale) for q in queries], dtype=np.float64)

    def explain(self, query: Query) -> Mapping[str, float]:
        return {}

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "router.json").write_text(json.dumps(dict(self.params)) + "\n", "utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self:
        return cls(**json.loads((directory / "router.json").read_text("utf-8")))


class ScorerRouter(LengthRouter):
    """One that runs in the Scorer."""

    name = "heavy"
    placement: Placement = "scorer"


class FailingRouter(LengthRouter):
    """One that cannot be fitted."""

    name = "failing"

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        raise ConfigError("failing: not with these data")
