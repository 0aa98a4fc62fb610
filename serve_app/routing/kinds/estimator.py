"""The estimator: each pool's quality on a query with its uncertainty, tokens and cost; and the win rate of a pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.data.validation import check_scored
from serve_app.learning.encoder import DEFAULT, load_encoder, saved_encoder
from serve_app.learning.heads import QualityHead, TokenHead, WinLink, fit_head, fit_tokens
from serve_app.learning.logistic import folds_of
from serve_app.learning.query_features import QueryFeatures
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, largest_first, silent, summed
from serve_app.routing.estimate import Estimate
from serve_app.types import Query

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset, PoolAnswers

_FOLDS = 5
_HEAD, _TOKENS = ("weights", "bias", "covariance", "low", "high"), tuple(TokenHead.__slots__)


@dataclass(eq=False)
class EstimatorRouter(LearnedRouter):
    """A quality head for each pool over one set of features, as CARROT (Somerstep et al. 2025) estimates quality and
    cost, with a standard error; the strong win rate is a calibrated function of the heads of `small` and `large`.

    Learned on the answers of any number of pools, `small` and `large` among them. Learned: `models_` (pool to the id
    of its model), `features_`, `heads_`, `tokens_`, `link_`. `encoder` as `load_encoder` takes it; `seed` draws the
    folds and the order in which history is made.
    """

    name = "estimator"

    encoder: str = DEFAULT
    seed: int = 0

    def __post_init__(self) -> None:
        self.models_: Mapping[str, str] = {}
        self.features_: QueryFeatures | None = None
        self.heads_: dict[str, QualityHead] = {}
        self.tokens_: dict[str, TokenHead] = {}
        self.link_ = WinLink(0.0, 0.0, 0.0, 0.0)

    def fit(self, dataset: "Dataset", report: Report = silent) -> Self:
        """Learn from the mean quality and tokens of each pool's answers; needs the extra `train`.

        Raises ConfigError for an empty dataset, one without `small` and `large`, or a pool that is not scored.
        """
        check_scored(dataset, self.name)
        texts = [q.text for q in dataset.queries]
        quality = {pool: answers.quality.mean(1) for pool, answers in dataset.pools.items()}
        limits = {pool: _limits(values) for pool, values in quality.items()}
        shares = {p: (q - limits[p][0]) / (limits[p][1] - limits[p][0]) for p, q in quality.items()}
        vectors = load_encoder(self.encoder).embed(texts)
        self.features_, matrices = QueryFeatures.fit(dataset.queries, vectors, shares, self.seed)
        folds = folds_of(texts, _FOLDS, self.seed)
        self.models_ = {pool: answers.model for pool, answers in dataset.pools.items()}
        self.heads_, self.tokens_ = {}, {}
        out_of_fold = {}
        for pool, answers in dataset.pools.items():
            self.heads_[pool], out_of_fold[pool] = fit_head(matrices[pool], quality[pool], folds, limits[pool])
            self.tokens_[pool] = _fit_tokens(matrices[pool], texts, answers)
            report(f"estimator: {pool} ({answers.model}), mean quality {quality[pool].mean():.3f}")
        self.link_ = WinLink.fit(out_of_fold["small"], out_of_fold["large"], dataset.strong_win_rate())
        return self

    def score(self, queries: Sequence[Query]) -> Floats:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""
        rows = self._matrices(queries, "scoring")
        weak, strong = self.heads_["small"], self.heads_["large"]
        found = [
            self.link_.log_odds(weak.log_odds(a), strong.log_odds(b))
            for a, b in zip(rows["small"], rows["large"], strict=True)
        ]
        return sigmoid(np.array(found, dtype=np.float64))

    def estimate(self, queries: Sequence[Query]) -> Estimate:
        """Quality with its standard error, and tokens, of each pool's answer to each query."""
        rows = self._matrices(queries, "estimating")
        shape = (len(queries), len(self.models_))
        quality, std, prompt, completion = (np.empty(shape) for _ in range(4))
        for j, pool in enumerate(self.models_):
            for i, (x, query) in enumerate(zip(rows[pool], queries, strict=True)):
                quality[i, j], std[i, j] = self.heads_[pool].mean_std(x)
                prompt[i, j] = self.tokens_[pool].prompt_tokens(len(query.text))
                completion[i, j] = self.tokens_[pool].completion_tokens(x)
        return Estimate(tuple(self.models_), quality, std, prompt, completion)

    def explain(self, query: Query) -> Mapping[str, float]:
        """Signed contributions in log-odds by group of features, largest in size first.

        Groups: `meaning` (the sentence vector), `history` (past quality on similar queries), and each readable
        number. With `bias`, the log-odds of a query average in all of them, they add up to the score's (to 1e-3).
        """
        rows = self._matrices((query,), "explaining")
        heads = (self.heads_["small"], self.heads_["large"])
        found = (rows["small"][0], rows["large"][0])
        start = (heads[0].bias, heads[1].bias)
        end = (heads[0].log_odds(found[0]), heads[1].log_odds(found[1]))
        slopes = self.link_.slopes(start, end)
        moved = sum(slope * head.weights * x for slope, head, x in zip(slopes, heads, found, strict=True))
        terms = summed(self._need(self.features_, "explaining").groups, np.asarray(moved))
        terms["bias"] = self.link_.log_odds(*start)
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json`, `features.npz`, `heads.npz`, and `history-<i>.npz` for the i-th pool."""
        features = self._need(self.features_, "saving")
        body = {
            "params": dict(self.params),
            "encoder_digest": load_encoder(self.encoder).digest,
            "models": dict(self.models_),
            "link": [getattr(self.link_, name) for name in ("weak", "strong", "gap", "bias")],
            "vocabulary": sorted(features.histories["small"].vocabulary_),
        }
        self._write(directory, body, indent=0, ensure_ascii=False)
        features.save(directory)
        arrays: dict[str, Any] = {}
        for i, pool in enumerate(self.models_):
            arrays |= {f"head_{name}_{i}": _stored(getattr(self.heads_[pool], name)) for name in _HEAD}
            arrays |= {f"tokens_{name}_{i}": _stored(getattr(self.tokens_[pool], name)) for name in _TOKENS}
        np.savez(directory / "heads.npz", **arrays)

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        encoder = saved_encoder(files.path, self.encoder, body["encoder_digest"])
        self.models_ = {str(pool): str(model) for pool, model in body["models"].items()}
        self.link_ = WinLink(*(float(w) for w in body["link"]))
        self.features_ = QueryFeatures.load(files.at, self.models_, body["vocabulary"])
        columns, arrays = len(self.features_.groups), files.arrays("heads.npz")
        if self.features_.centre.shape != (encoder.dimensions,) or not {"small", "large"} <= set(self.models_):
            raise ValueError("features, pools and encoder do not fit together")
        for i, pool in enumerate(self.models_):
            self.heads_[pool] = QualityHead(**{name: _read(arrays[f"head_{name}_{i}"]) for name in _HEAD})
            self.tokens_[pool] = TokenHead(**{name: _read(arrays[f"tokens_{name}_{i}"]) for name in _TOKENS})
            if not self.heads_[pool].weights.shape == self.tokens_[pool].weights.shape == (columns,):
                raise ValueError(f"the head of {pool} has another number of features")

    def _matrices(self, queries: Sequence[Query], act: str) -> dict[str, Floats]:
        return self._need(self.features_, act).matrices(queries, load_encoder(self.encoder))


def _limits(quality: Floats) -> tuple[float, float]:
    """[0, 1], or the least and the greatest quality where the metric goes beyond that."""
    low, high = float(quality.min()), float(quality.max())
    return (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high if high > low else low + 1.0)


def _fit_tokens(matrix: Floats, texts: Sequence[str], answers: "PoolAnswers") -> TokenHead:
    tokens = answers.mean_tokens()
    return fit_tokens(matrix, np.array([float(len(t)) for t in texts]), tokens[:, 0], tokens[:, 1])


def _stored(value: Any) -> NDArray[Any]:
    """Covariances, rounded to single precision when they were fitted, are stored so; all else in full."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.ndim == 2 else array


def _read(array: NDArray[Any]) -> Any:
    """A number, or an array in full precision."""
    return float(array) if array.ndim == 0 else array.astype(np.float64)
