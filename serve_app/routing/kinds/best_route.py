"""BEST-Route: the cheapest of many candidates, a pool with its best of n answers, that is good enough.

With `routing.best_of` the candidates are served, see `ensemble.serving.best_route`: the answer among n is then chosen
by a ranker, by vote or by log-probability. Otherwise the router serves by its `score`, which is about one answer of the
small pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.data.validation import check_scored
from serve_app.errors import ConfigError
from serve_app.learning.encoder import DEFAULT, load_encoder, saved_encoder
from serve_app.learning.heads import TokenHead, fit_head, fit_tokens
from serve_app.learning.logistic import folds_of
from serve_app.learning.query_features import QueryFeatures
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, largest_first, silent, summed
from serve_app.types import Price, Query

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset


def best_of(quality: Floats, n: int) -> Floats:
    """Expected quality of the best of n answers drawn without return from the k recorded, [queries]; quality [.., k].

    A ranker that always finds the best is assumed, so this is the most that best of n can give. The i-th smallest of
    k is the greatest of n in C(i - 1, n - 1) of C(k, n) draws. Raises ValueError unless 1 <= n <= k.
    """
    k = quality.shape[1]
    _check(n, k)
    chances = np.array([comb(i, n - 1) for i in range(k)]) / comb(k, n)
    expected: Floats = np.sort(quality, axis=1) @ chances
    return expected


def match_rate(quality: Floats, reference: Floats, n: int, margin: float = 0.0) -> Floats:
    """P(the best of n is at most `margin` worse than one answer of the reference), [queries].

    `quality` [queries, k], `reference` [queries, r]; over all draws of n and all answers of the reference. These are
    BEST-Route's labels (Ding et al. 2025), as probabilities. Raises ValueError unless 1 <= n <= k.
    """
    k = quality.shape[1]
    _check(n, k)
    worse = (quality[:, :, None] < reference[:, None, :] - margin).sum(1)
    all_worse = np.array([comb(i, n) for i in range(k + 1)]) / comb(k, n)
    rate: Floats = 1.0 - all_worse[worse].mean(1)
    return rate


def _check(n: int, k: int) -> None:
    if not 1 <= n <= k:
        raise ValueError(f"the best of {n} of {k} answers: n must be between 1 and their number")


REFERENCE = "large"
_WEAK = "small"
_FOLDS = 5
_TOKENS = tuple(TokenHead.__slots__)


@dataclass(frozen=True, slots=True, order=True)
class SampledPool:
    """The best of `samples` answers of a pool."""

    pool: str
    samples: int = 1

    def __str__(self) -> str:
        return f"{self.pool}x{self.samples}"


@dataclass(frozen=True, slots=True)
class SampledEstimate:
    """What is expected of a candidate for one query: P(good enough), tokens of the prompt and of each answer."""

    candidate: SampledPool
    good_enough: float
    prompt_tokens: float
    answer_tokens: float

    def cost_usd(self, price: Price) -> float:
        """The prompt once, the answer n times."""
        written = self.candidate.samples * self.answer_tokens * price.output_usd_per_million
        return (self.prompt_tokens * price.input_usd_per_million + written) / 1e6


@dataclass(eq=False)
class BestRouteRouter(LearnedRouter):
    """One head for each candidate: P(the best of its answers is at most `margin` worse than the reference's).

    After Ding et al. 2025 (BEST-Route): the last candidate is the reference, one answer of `large`; labels compare
    the best of n with it, over all draws of n and all of its answers; the cheapest candidate whose head says at
    least the threshold is taken, else the reference. Their heads share one fine-tuned encoder; these are logistic
    on a frozen one, the readable features and history. Learned: `candidates_`, `weights_`, `biases_`, `tokens_`.
    `samples` is the most answers of one pool, `margin` in the unit of quality; `seed` draws folds and order.
    """

    name = "best_route"

    samples: int = 5
    margin: float = 0.0
    encoder: str = DEFAULT
    seed: int = 0

    def __post_init__(self) -> None:
        self.candidates_: tuple[SampledPool, ...] = ()
        self.features_: QueryFeatures | None = None
        self.weights_ = np.zeros((0, 0))
        self.biases_ = np.zeros(0)
        self.tokens_: dict[str, TokenHead] = {}

    def fit(self, dataset: "Dataset", report: Report = silent) -> Self:
        """Learn from the sampled answers of each pool; needs the extra `train`.

        Candidates have as many answers as were sampled, and at most `samples`. Raises ConfigError for an empty
        dataset, one without `small` and `large`, or answers that are not scored.
        """
        if self.samples < 1:
            raise ConfigError(f"best_route: samples is {self.samples}; give at least 1")
        check_scored(dataset, self.name)
        reference = dataset.pools[REFERENCE].quality
        labels = {
            SampledPool(pool, n): match_rate(answers.quality, reference, n, self.margin)
            for pool, answers in dataset.pools.items()
            if pool != REFERENCE
            for n in range(1, min(self.samples, answers.quality.shape[1]) + 1)
        }
        texts = [q.text for q in dataset.queries]
        vectors = load_encoder(self.encoder).embed(texts)
        named = {str(candidate): label for candidate, label in labels.items()}
        self.features_, matrices = QueryFeatures.fit(dataset.queries, vectors, named, self.seed)
        folds = folds_of(texts, _FOLDS, self.seed)
        heads = []
        for name, label in named.items():
            heads.append(fit_head(matrices[name], label, folds)[0])
            report(f"best_route: {name} is good enough for {100 * label.mean():.1f} % of the queries")
        self.candidates_ = tuple(labels)
        self.weights_ = np.stack([head.weights for head in heads])
        self.biases_ = np.array([head.bias for head in heads])
        shared = matrices[next(iter(named))]
        characters = np.array([float(len(t)) for t in texts])
        self.tokens_ = {
            pool: fit_tokens(shared, characters, *answers.mean_tokens().T) for pool, answers in dataset.pools.items()
        }
        return self

    def good_enough(self, queries: Sequence[Query]) -> Floats:
        """P(good enough) of every candidate but the reference, [n, candidates]; never less for more answers."""
        rows = self._matrices(queries, "scoring")
        found = np.empty((len(queries), len(self.candidates_)))
        for j, candidate in enumerate(self.candidates_):
            for i, x in enumerate(rows[str(candidate)]):
                found[i, j] = sigmoid(float(x @ self.weights_[j]) + self.biases_[j])
        for j in range(1, len(self.candidates_)):
            if self.candidates_[j].pool == self.candidates_[j - 1].pool:
                found[:, j] = np.maximum(found[:, j], found[:, j - 1])
        return found

    def cost_usd(self, queries: Sequence[Query], prices: Mapping[str, Price]) -> Floats:
        """Expected cost of each candidate, the reference last: the prompt once, the answer n times.

        Shape [len(queries), candidates + 1]. Raises KeyError for a pool without a price.
        """
        return np.array(
            [[one.cost_usd(prices[one.candidate.pool]) for one in row] for row in self.sampled_estimates(queries)],
            dtype=np.float64,
        ).reshape(len(queries), len(self.candidates_) + 1)

    def sampled_estimates(self, queries: Sequence[Query]) -> list[list[SampledEstimate]]:
        """For each query what is expected of every candidate, the reference last, which is always good enough."""
        good = self.good_enough(queries)
        rows = self._matrices(queries, "estimating")[str(self.candidates_[0])]
        found = []
        for x, query, chances in zip(rows, queries, good, strict=True):
            row = []
            for candidate, chance in zip((*self.candidates_, SampledPool(REFERENCE)), (*chances, 1.0), strict=True):
                tokens = self.tokens_[candidate.pool]
                read, written = tokens.prompt_tokens(len(query.text)), tokens.completion_tokens(x)
                row.append(SampledEstimate(candidate, float(chance), float(read), float(written)))
            found.append(row)
        return found

    def choose(self, queries: Sequence[Query], threshold: float, prices: Mapping[str, Price]) -> list[SampledPool]:
        """The cheapest candidate of those good enough with a probability of at least the threshold; else the reference.

        A candidate dearer than the reference is never taken.
        """
        chosen = cheapest(self.good_enough(queries), self.cost_usd(queries, prices), threshold)
        every = (*self.candidates_, SampledPool(REFERENCE))
        return [every[j] for j in chosen]

    def score(self, queries: Sequence[Query]) -> Floats:
        """Strong win rates, [len(queries)]: 1 - P(one answer of `small` is good enough)."""
        rows = self._matrices(queries, "scoring")[str(SampledPool(_WEAK))]
        at = self.candidates_.index(SampledPool(_WEAK))
        log_odds = [float(x @ self.weights_[at]) + self.biases_[at] for x in rows]
        return sigmoid(-np.array(log_odds, dtype=np.float64))

    def explain(self, query: Query) -> Mapping[str, float]:
        """Signed contributions in log-odds by group of features, largest in size first; they add up to the score's."""
        x = self._matrices((query,), "explaining")[str(SampledPool(_WEAK))][0]
        at = self.candidates_.index(SampledPool(_WEAK))
        terms = summed(self._need(self.features_, "explaining").groups, -self.weights_[at] * x)
        terms["bias"] = -float(self.biases_[at])
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json`, `features.npz`, `heads.npz`, and `history-<i>.npz` for the i-th candidate."""
        features = self._need(self.features_, "saving")
        body = {
            "params": dict(self.params),
            "encoder_digest": load_encoder(self.encoder).digest,
            "candidates": [[candidate.pool, candidate.samples] for candidate in self.candidates_],
            "tokens": {p: {n: np.asarray(getattr(t, n)).tolist() for n in _TOKENS} for p, t in self.tokens_.items()},
            "vocabulary": sorted(features.histories[str(self.candidates_[0])].vocabulary_),
        }
        self._write(directory, body, indent=0, ensure_ascii=False)
        features.save(directory)
        np.savez(directory / "heads.npz", weights=self.weights_, biases=self.biases_)

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        saved_encoder(files.path, self.encoder, body["encoder_digest"])
        self.candidates_ = tuple(SampledPool(str(pool), int(n)) for pool, n in body["candidates"])
        self.tokens_ = {
            p: TokenHead(**{n: _number_or_array(v) for n, v in t.items()}) for p, t in body["tokens"].items()
        }
        self.features_ = QueryFeatures.load(files.at, map(str, self.candidates_), body["vocabulary"])
        arrays = files.arrays("heads.npz")
        self.weights_, self.biases_ = arrays["weights"], arrays["biases"]
        shape = (len(self.candidates_), len(self.features_.groups))
        if self.weights_.shape != shape or SampledPool(_WEAK) not in self.candidates_:
            raise ValueError("candidates, heads and features do not fit together")

    def _matrices(self, queries: Sequence[Query], act: str) -> dict[str, Floats]:
        return self._need(self.features_, act).matrices(queries, load_encoder(self.encoder))


def cheapest(good_enough: Floats, cost_usd: Floats, threshold: float) -> NDArray[np.int64]:
    """Column of the cheapest candidate good enough for each query, [n]; the last column of costs is the reference's.

    `good_enough` [n, c], `cost_usd` [n, c + 1]. Of equal costs the likelier.
    """
    allowed = np.concatenate([good_enough >= threshold, np.ones((len(good_enough), 1), dtype=bool)], axis=1)
    price = np.where(allowed, cost_usd, np.inf)
    sure = np.concatenate([good_enough, np.ones((len(good_enough), 1))], axis=1)
    order: NDArray[np.int64] = np.lexsort((-sure, price), axis=1)
    return order[:, 0]


def _number_or_array(value: Any) -> Any:
    """Of a token head as JSON holds it."""
    return np.array(value, dtype=np.float64) if isinstance(value, list) else float(value)
