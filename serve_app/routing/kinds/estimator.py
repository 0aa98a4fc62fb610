"""The estimator: each pool's quality on a query with its uncertainty, tokens and cost; and the win rate of a pair."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays, sigmoid
from serve_app.data.validation import check_scored
from serve_app.errors import ConfigError
from serve_app.learning.encoder import DEFAULT, SentenceEncoder, load_encoder, saved_encoder
from serve_app.learning.heads import QualityHead, TokenHead, WinLink, fit_head, fit_tokens
from serve_app.learning.history import History
from serve_app.learning.logistic import folds_of
from serve_app.learning.query_features import QueryFeatures
from serve_app.routing.artefact import read_json
from serve_app.routing.base import Placement, Report, largest_first, silent
from serve_app.routing.estimate import Estimate
from serve_app.types import Query

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset, PoolAnswers

FORMAT = 1
_FOLDS = 5
_HEAD, _TOKENS = ("weights", "bias", "covariance", "low", "high"), tuple(TokenHead.__slots__)


class EstimatorRouter:
    """A quality head for each pool over one set of features, as CARROT (Somerstep et al. 2025) estimates quality and
    cost, with a standard error; the strong win rate is a calibrated function of the heads of `small` and `large`.

    Learned on the answers of any number of pools, `small` and `large` among them. Learned: `models_` (pool to the id
    of its model), `features_`, `heads_`, `tokens_`, `link_`.
    """

    name = "estimator"
    placement: Placement = "batched"

    def __init__(self, encoder: str = DEFAULT, seed: int = 0) -> None:
        """`encoder` as `load_encoder` takes it; `seed` draws the folds and the order in which history is made."""
        self.encoder = encoder
        self.seed = seed
        self.models_: Mapping[str, str] = {}
        self.features_: QueryFeatures | None = None
        self.heads_: dict[str, QualityHead] = {}
        self.tokens_: dict[str, TokenHead] = {}
        self.link_ = WinLink(0.0, 0.0, 0.0, 0.0)

    @property
    def params(self) -> Mapping[str, Any]:
        """See Router."""
        return {"encoder": self.encoder, "seed": self.seed}

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
        terms: dict[str, float] = {}
        assert self.features_ is not None
        for group, value in zip(self.features_.groups, np.asarray(moved).tolist(), strict=True):
            terms[group] = terms.get(group, 0.0) + value
        terms["bias"] = self.link_.log_odds(*start)
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json`, `features.npz`, `heads.npz`, and `history-<i>.npz` for the i-th pool."""
        if self.features_ is None:
            raise ConfigError("estimator: the router is not fitted; fit it before saving")
        directory.mkdir(parents=True, exist_ok=True)
        link = self.link_
        body = {
            "format": FORMAT,
            "kind": self.name,
            "params": dict(self.params),
            "encoder_digest": load_encoder(self.encoder).digest,
            "models": dict(self.models_),
            "link": [link.weak, link.strong, link.gap, link.bias],
            "vocabulary": sorted(self.features_.histories["small"].vocabulary_),
        }
        (directory / "router.json").write_text(json.dumps(body, indent=0, ensure_ascii=False) + "\n", "utf-8")
        self.features_.save(directory)
        arrays: dict[str, Any] = {}
        for i, pool in enumerate(self.models_):
            arrays |= {f"head_{name}_{i}": _stored(getattr(self.heads_[pool], name)) for name in _HEAD}
            arrays |= {f"tokens_{name}_{i}": _stored(getattr(self.tokens_[pool], name)) for name in _TOKENS}
        with (directory / "heads.npz").open("wb") as out:
            np.savez(out, **arrays)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """See Router."""
        path = directory / "router.json"
        body = read_json(path, kind=cls.name, version=FORMAT)
        try:
            router = cls(**body["params"])
            encoder = saved_encoder(path, router.encoder, body["encoder_digest"])
            router.models_ = {str(pool): str(model) for pool, model in body["models"].items()}
            router.link_ = WinLink(*(float(w) for w in body["link"]))
            histories = {}
            for i, pool in enumerate(router.models_):
                path = directory / f"history-{i}.npz"
                histories[pool] = History.from_arrays(path, body["vocabulary"])
            path = directory / "features.npz"
            router.features_ = QueryFeatures.from_arrays(read_arrays(path), histories)
            path = directory / "heads.npz"
            router._take_heads(read_arrays(path), len(router.features_.groups), encoder)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise ConfigError(f"{path}: cannot be read ({e!r}); train and save the router again") from e
        return router

    def _take_heads(self, arrays: Mapping[str, NDArray[Any]], columns: int, encoder: SentenceEncoder) -> None:
        assert self.features_ is not None
        if self.features_.centre.shape != (encoder.dimensions,) or not {"small", "large"} <= set(self.models_):
            raise ValueError("features, pools and encoder do not fit together")
        for i, pool in enumerate(self.models_):
            head = {name: _read(arrays[f"head_{name}_{i}"]) for name in _HEAD}
            tokens = {name: _read(arrays[f"tokens_{name}_{i}"]) for name in _TOKENS}
            self.heads_[pool] = QualityHead(**head)
            self.tokens_[pool] = TokenHead(**tokens)
            if not self.heads_[pool].weights.shape == self.tokens_[pool].weights.shape == (columns,):
                raise ValueError(f"the head of {pool} has another number of features")

    def _matrices(self, queries: Sequence[Query], act: str) -> dict[str, Floats]:
        if self.features_ is None:
            raise ConfigError(f"estimator: the router is not fitted; fit or load it before {act}")
        return self.features_.matrices(queries, load_encoder(self.encoder))


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
