"""A query as one row of numbers of like weight: what an encoder's middle layers know of it, and its surface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.learning.encoder import Vectors
from serve_app.learning.surface import SURFACE

Floats = NDArray[np.float64]

_MOST = 5.0
"""Standard deviations that a column may lie from its mean: an absurdly long prompt is long, and that is all."""

_SHARES = np.array([0.8, 0.2])
"""Of a row's variance: layers, surface. Few columns that are read off rank well within one kind of task, and mislead
beyond it."""


@dataclass(frozen=True, slots=True)
class QueryView:
    """Columns standardised, clipped, and scaled: the layers' columns together have variance 0.8, the surface's 0.2.

    `mean`, `deviation` and `weight` have shape [columns]; rows have mean squared length 1 where learned. Layers first.
    """

    mean: Floats
    deviation: Floats
    weight: Floats

    @classmethod
    def fit(cls, layers: Vectors, surface: Floats) -> Self:
        """From the views of texts, [n, columns], and their surface, [n, len(SURFACE)]."""
        both = np.concatenate([layers, surface], axis=1)
        mean, deviation = both.mean(0), both.std(0)
        varies = deviation > 1e-9
        blocks = np.repeat([0, 1], [layers.shape[1], surface.shape[1]])
        counts = np.array([max(1, int(varies[blocks == b].sum())) for b in (0, 1)], dtype=np.float64)
        weight = np.where(varies, np.sqrt(_SHARES[blocks] / counts[blocks]), 0.0)
        return cls(mean, np.where(varies, deviation, 1.0), weight)

    def rows(self, layers: Vectors, surface: Floats) -> Vectors:
        """Rows of shape [n, columns]."""
        both = np.concatenate([layers, surface], axis=1)
        rows: Vectors = (np.clip((both - self.mean) / self.deviation, -_MOST, _MOST) * self.weight).astype(np.float32)
        return rows

    def groups(self, views: Sequence[str]) -> list[str]:
        """What each column says something of: the view of a layer, or a name of SURFACE."""
        width = (len(self.mean) - len(SURFACE)) // len(views)
        return [view for view in views for _ in range(width)] + list(SURFACE)

    def arrays(self) -> dict[str, Floats]:
        """For saving."""
        return {"view_mean": self.mean, "view_deviation": self.deviation, "view_weight": self.weight}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], columns: int) -> Self:
        """What `arrays` gave. Raises KeyError or ValueError."""
        found = cls(arrays["view_mean"], arrays["view_deviation"], arrays["view_weight"])
        if any(a.shape != (columns + len(SURFACE),) for a in (found.mean, found.deviation, found.weight)):
            raise ValueError("the views are others than this version's")
        return found
