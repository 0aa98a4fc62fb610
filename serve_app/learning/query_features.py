"""Query features for linear models: sentence vector, readable features, and past quality on similar queries."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays
from serve_app.learning.encoder import SentenceEncoder
from serve_app.learning.features import NUMERIC, Reading, read
from serve_app.learning.history import LEVELS, History, common_words
from serve_app.types import Query

MEANING, HISTORY = "meaning", "history"
_ARRAYS = ("centre", "scale", "mean", "deviation")
_MEANING_SHARE = 5.0
"""Standard deviation of the sentence vector as one block, where each readable number has 1. Of 2, 5, 10 and 15 the
best on GSM8K and MMLU outcomes at its own best penalty."""
_MOST = 4.0
"""Standard deviations that a readable number may lie from the mean: a prompt of a million characters is long, and
that is all that it says."""


@dataclass(frozen=True, slots=True)
class QueryFeatures:
    """Centres and scales learned from queries. Columns: sentence vector, NUMERIC, history (one block per pool).

    The history is the past mean quality of one pool's answers to similar queries, so each pool has its own block.
    """

    centre: Floats
    scale: float
    mean: Floats
    deviation: Floats
    histories: Mapping[str, History]
    history_mean: Mapping[str, Floats]
    history_deviation: Mapping[str, Floats]

    @classmethod
    def fit(
        cls, queries: Sequence[Query], vectors: NDArray[np.float32], quality: Mapping[str, Floats], seed: int
    ) -> tuple[Self, dict[str, Floats]]:
        """The features, and each pool's matrix [n, columns] of these queries.

        `quality` by pool, shape [n], in [0, 1]. A query's own outcome is not in its history: that comes from the
        queries before it in a random order.
        """
        readings = [read(q) for q in queries]
        texts = [q.text for q in queries]
        vocabulary = common_words(readings)
        past = {p: np.array(History(vocabulary).past_logits(readings, y, texts, seed)) for p, y in quality.items()}
        numeric = np.array([r.numeric for r in readings])
        centre = vectors.mean(0, dtype=np.float64)
        spread = float(np.sqrt(((vectors - centre) ** 2).sum(1).mean()))
        made = cls(
            centre=centre,
            scale=_MEANING_SHARE / spread if spread > 1e-9 else 0.0,
            mean=numeric.mean(0),
            deviation=_deviation(numeric),
            histories={p: History.fit(readings, y, vocabulary) for p, y in quality.items()},
            history_mean={p: values.mean(0) for p, values in past.items()},
            history_deviation={p: _deviation(values) for p, values in past.items()},
        )
        alike = made._alike(readings, vectors)
        return made, {p: np.concatenate([alike, made._history(p, values)], axis=1) for p, values in past.items()}

    def matrices(self, queries: Sequence[Query], encoder: SentenceEncoder) -> dict[str, Floats]:
        """Each pool's matrix [n, columns] of queries not learned from."""
        readings = [read(q) for q in queries]
        alike = self._alike(readings, encoder.embed([q.text for q in queries]))
        width = len(LEVELS) - 1
        past = {p: np.array([h.logits(r) for r in readings], dtype=np.float64) for p, h in self.histories.items()}
        return {p: np.concatenate([alike, self._history(p, v.reshape(-1, width))], axis=1) for p, v in past.items()}

    @property
    def groups(self) -> list[str]:
        """What each column says something of, shape [columns]: MEANING, a name of NUMERIC, or HISTORY."""
        return [MEANING] * len(self.centre) + list(NUMERIC) + [HISTORY] * (len(LEVELS) - 1)

    def save(self, directory: Path) -> None:
        """Write `features.npz`, and `history-<i>.npz` for pool i."""
        arrays: dict[str, Any] = {name: np.array(getattr(self, name)) for name in _ARRAYS}
        for i, (pool, history) in enumerate(self.histories.items()):
            arrays[f"history_mean_{i}"] = self.history_mean[pool]
            arrays[f"history_deviation_{i}"] = self.history_deviation[pool]
            with (directory / f"history-{i}.npz").open("wb") as out:
                np.savez_compressed(out, **cast(Any, history.arrays()))
        with (directory / "features.npz").open("wb") as out:
            np.savez(out, **arrays)

    @classmethod
    def load(cls, at: Callable[[str], Path], names: Iterable[str], vocabulary: Iterable[str]) -> Self:
        """What was saved for pools of these names; `at` returns a file's path. Raises KeyError or ValueError."""
        pools = list(enumerate(names))
        histories = {pool: History.from_arrays(at(f"history-{i}.npz"), vocabulary) for i, pool in pools}
        arrays = read_arrays(at("features.npz"))
        if arrays["mean"].shape != (len(NUMERIC),) or arrays["deviation"].shape != (len(NUMERIC),):
            raise ValueError("the readable features are others than this version's")
        means, deviations = ({p: arrays[f"history_{of}_{i}"] for i, p in pools} for of in ("mean", "deviation"))
        centre, scale, mean, deviation = (arrays[name] for name in _ARRAYS)
        return cls(centre, float(scale), mean, deviation, histories, means, deviations)

    def _alike(self, readings: Sequence[Reading], vectors: NDArray[np.float32]) -> Floats:
        """The columns that all pools share."""
        numeric = np.array([r.numeric for r in readings], dtype=np.float64).reshape(-1, len(NUMERIC))
        looks = np.clip((numeric - self.mean) / self.deviation, -_MOST, _MOST)
        return np.concatenate([(vectors - self.centre) * self.scale, looks], axis=1)

    def _history(self, pool: str, values: Floats) -> Floats:
        standard: Floats = (values - self.history_mean[pool]) / self.history_deviation[pool]
        return np.clip(standard, -_MOST, _MOST)


def _deviation(columns: Floats) -> Floats:
    """Standard deviations; 1 for a constant column, whose deviation rounding may leave just above zero."""
    found: Floats = columns.std(0)
    return np.where(found < 1e-9, 1.0, found)
