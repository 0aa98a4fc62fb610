"""The knn router: how often the strong model won on the most similar stored queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.data.validation import PAIR, check_scored
from serve_app.learning.encoder import DEFAULT, load_encoder, saved_encoder
from serve_app.learning.features import rows_by_text
from serve_app.learning.logistic import means_by_text, smoothed_mean
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, largest_first, silent
from serve_app.routing.kinds.knn.neighbours import Kernel, Neighbours, Positions, Vectors, choose_kernel, log_odds
from serve_app.types import Query

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset

_NAMED = 10
"""Neighbours that an explanation names; the others are one term."""
_SHOWN = 60
"""Characters of a stored text that an explanation shows."""


@dataclass(eq=False)
class KnnRouter(LearnedRouter):
    """Strong win rate as the similarity-weighted mean over the k nearest stored queries, leaning on the prior.

    Nadaraya-Watson regression on the k nearest (Hastie et al. 2009, section 6.1) over sentence vectors: neighbour i
    weighs exp((s_i - s_1) / temperature), s the cosine similarities and s_1 the greatest, and the mean win rate of
    all weighs `shrinkage`, in neighbours as near as the nearest. What of `k`, `temperature` and `shrinkage` is not
    given is chosen by leave-one-out cross-validation (least log loss). Stored queries of equal text are one, with
    their mean. Texts themselves are kept only with `keep_texts`, for `explain`: they are the callers' own words.
    `encoder` as `load_encoder` takes it; `seed` draws the index's cells and the queries of validation.
    """

    name = "knn"

    k: int | None = None
    temperature: float | None = None
    shrinkage: float | None = None
    encoder: str = DEFAULT
    keep_texts: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.kernel_: Kernel | None = None
        self.prior_ = 0.5
        self.outcomes_ = np.zeros(0)
        self.names_: tuple[str, ...] = ()
        self._index: Neighbours | None = None

    def fit(self, dataset: "Dataset", report: Report = silent) -> Self:
        """Store the queries with their strong win rates; needs the extra `train`.

        Raises ConfigError for data that are empty or not scored, or an invalid `k`, `temperature` or `shrinkage`.
        """
        check_scored(dataset, self.name, PAIR)
        first = rows_by_text([q.text for q in dataset.queries])
        texts = list(first)
        outcomes = means_by_text(dataset.strong_win_rate(), first)
        # float16 is within 1e-4 in similarity at half the size; rounded here, a loaded router scores the same
        vectors = load_encoder(self.encoder).embed(texts).astype(np.float16).astype(np.float32)
        self.prior_ = smoothed_mean(outcomes)
        given = Kernel(self.k, self.temperature, self.shrinkage)
        self.kernel_ = choose_kernel(vectors, outcomes, given, self.prior_, self.seed)
        self._index = Neighbours.fit(vectors, self.kernel_.nearest, self.seed)
        self.outcomes_ = outcomes
        shown = [f": {text[:_SHOWN]}" if self.keep_texts else "" for text in texts]
        self.names_ = tuple(f"{dataset.ids[rows[0]]}{text}" for rows, text in zip(first.values(), shown, strict=True))
        report(f"knn: {len(texts):,} distinct queries, {self.kernel_}, recall {self._index.recall_:.3f}")
        return self

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""
        kernel, index = self._fitted("scoring")
        vectors = load_encoder(self.encoder).embed([q.text for q in queries])
        return np.array([self._estimate(v, kernel, index)[0] for v in vectors], dtype=np.float64)

    def explain(self, query: Query) -> Mapping[str, float]:
        """Signed contributions in log-odds of the neighbours, largest in size first.

        A neighbour's is its weighted distance from the prior; with `bias`, the prior's log-odds, they add up to the
        score's. Neighbours are named by id, or id and first words with `keep_texts`, and their own win rate.
        """
        kernel, index = self._fitted("explaining")
        vector = load_encoder(self.encoder).embed([query.text])[0]
        score, at, shares = self._estimate(vector, kernel, index)
        moved = shares * (self.outcomes_[at] - self.prior_)
        gap = score - self.prior_
        per_point = (log_odds(score) - log_odds(self.prior_)) / gap if abs(gap) > 1e-9 else 1 / (score * (1 - score))
        order = np.argsort(-np.abs(moved), kind="stable")
        terms = {
            f"{self.names_[at[i]]} (win rate {self.outcomes_[at[i]]:.2f})": float(moved[i] * per_point)
            for i in order[:_NAMED]
        }
        terms["other neighbours"] = float(moved[order[_NAMED:]].sum() * per_point)
        terms["bias"] = log_odds(self.prior_)
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json` (parameters, names) and `knn.npz` (vectors as float16, win rates, the index)."""
        kernel, index = self._fitted("saving")
        body = {
            "params": dict(self.params),
            "encoder_digest": load_encoder(self.encoder).digest,
            "kernel": [kernel.k, kernel.temperature, kernel.shrinkage],
            "prior": self.prior_,
            "names": list(self.names_),
        }
        self._write(directory, body, indent=0, ensure_ascii=False)
        arrays: dict[str, Any] = {"vectors": index.vectors.astype(np.float16), "outcomes": self.outcomes_}
        arrays |= index.arrays()
        np.savez(directory / "knn.npz", **arrays)

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        saved_encoder(files.path, self.encoder, body["encoder_digest"])
        self.kernel_ = Kernel(*body["kernel"])
        self.prior_ = float(body["prior"])
        self.names_ = tuple(str(name) for name in body["names"])
        arrays = files.arrays("knn.npz")
        self._index = Neighbours.from_arrays(arrays["vectors"].astype(np.float32), arrays)
        self.outcomes_ = arrays["outcomes"].astype(np.float64)
        if not len(self.names_) == len(self.outcomes_) == len(self._index):
            raise ValueError("names, win rates and vectors differ in number")

    def _estimate(
        self, vector: Vectors, kernel: Kernel, index: Neighbours
    ) -> tuple[float, Positions, NDArray[np.float64]]:
        """The score, the neighbours' positions and the share of each in it."""
        at, similar = index.search(vector, kernel.nearest)
        shares = kernel.shares(similar)
        return self.prior_ + float(shares @ (self.outcomes_[at] - self.prior_)), at, shares

    def _fitted(self, act: str) -> tuple[Kernel, Neighbours]:
        return self._need(self.kernel_, act), self._need(self._index, act)
