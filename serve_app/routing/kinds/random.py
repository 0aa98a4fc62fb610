"""The random router: the baseline that every other router must beat."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.routing.artefact import LearnedRouter
from serve_app.routing.base import Placement, Report, silent
from serve_app.types import Query

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset


class RandomRouter(LearnedRouter):
    """A uniform score in [0, 1) from the query's text and a seed, as RouteLLM's `random` in distribution.

    The score is a hash, not a draw: the same query always gets the same score, so that a decision can be replayed
    and a test repeated. Over distinct queries the share of strong calls is 1 - threshold; where a few texts make up
    most of the traffic it is their scores that decide.
    """

    name = "random"
    placement: Placement = "inline"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._key = f"jethro-random-{seed}".encode()[:64]

    def fit(self, dataset: "Dataset", report: Report = silent) -> Self:
        """Nothing to learn."""
        return self

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Uniform scores, shape [len(queries)]."""
        return np.array([self._uniform(q.text) for q in queries], dtype=np.float64)

    def explain(self, query: Query) -> Mapping[str, float]:
        """Empty: no feature of the query moves the score."""
        return {}

    def save(self, directory: Path) -> None:
        """Write `router.json` with the seed."""
        self._write(directory, self.params, indent=1)

    @classmethod
    def _unfitted(cls, body: Mapping[str, Any]) -> Self:
        return cls(int(body["seed"]))

    def _uniform(self, text: str) -> float:
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=self._key).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53
