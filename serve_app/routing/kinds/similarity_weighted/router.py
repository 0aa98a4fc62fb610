"""RouteLLM's similarity-weighted ranking (Ong et al. 2024, arXiv 2406.18665, section 4.2 and its released code)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import sigmoid
from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Ties
from serve_app.errors import ConfigError
from serve_app.learning.encoder import DEFAULT, SentenceEncoder, load_encoder, saved_encoder
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, largest_first, silent
from serve_app.routing.kinds.similarity_weighted.battle_index import BattleIndex, clusters_of
from serve_app.routing.kinds.similarity_weighted.battles import BattleTable, curvature, strengths
from serve_app.types import Query

_NAMED = 8
"""Battles that an explanation names; the others are one term."""
_SHOWN = 60
"""Characters of a battle's prompt that an explanation shows, if texts are kept."""
_NONE_LOST = 5.0
"""Half a battle of similarity zero, which weighs 10: won and lost this much where a side would have lost none."""


@dataclass(eq=False, kw_only=True)
class SimilarityWeightedRouter(LearnedRouter):
    """Strong win rate by a Bradley-Terry fit for each query, battles weighing 10 * 10^(s / s_max).

    s is the cosine of the battle's prompt to the query, s_max the greatest. More than `tiers` models are grouped by
    Elo; the pair's win rate is that of their tiers: 1 / (1 + 10^(-gap / 400)) of the Elo gap, which is the sigmoid of
    the gap in Bradley-Terry log-odds. Battles are those of the pools' own answers and the dataset's preferences; ties
    count as half a win for either, or as `ties` says; `margin` is the difference of quality up to which answers tie.

    Of the paper's weight gamma^(1 + S), gamma = 10, the released code is followed in S = s / s_max with the greatest
    similarity to the query. Deviations: battles within a tier are left out (in the code they pull on the tier's level
    through a half-empty row); where a fit has no maximum, as one side never lost, every pairing of tiers that met is
    won and lost half a battle more; similarities count as at least 0.01 at the greatest. More than `exact` battles
    are summed by groups but for the nearest, see `battle_index`.

    Learned: `table_`, `base_` (log-odds with all battles alike). Texts are kept only with `keep_texts`, for `explain`.
    `encoder` as `load_encoder` takes it; `seed` draws the clusters of more than `exact` battles.
    """

    name = "sw_ranking"

    tiers: int = 10
    ties: Ties = "half"
    margin: float = 0.0
    exact: int = 8_000
    keep_texts: bool = False
    seed: int = 0
    encoder: str = DEFAULT

    def __post_init__(self) -> None:
        if self.ties not in get_args(Ties):
            raise ConfigError(f"sw_ranking: ties is {self.ties!r}; give one of {', '.join(get_args(Ties))}")
        if self.tiers < 2:
            raise ConfigError(f"sw_ranking: tiers is {self.tiers}; give at least two, one for each of the pair")
        self.table_: BattleTable | None = None
        self.base_ = 0.0
        self.texts_: tuple[str, ...] = ()
        self._vectors = np.zeros((0, 0), dtype=np.float32)
        self._cluster: NDArray[np.int64] | None = None
        self._encoder: SentenceEncoder | None = None
        self._index: BattleIndex | None = None
        self._start = np.zeros(0)
        self._added = np.zeros((0, 0))

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        """Store the battles; more than `exact` need scikit-learn.

        Raises ConfigError for an empty dataset, or a pair that no chain of battles links or that is in one tier.
        """
        if len(dataset) == 0:
            raise ConfigError("sw_ranking: the dataset is empty; collect answers first")
        weak, strong = dataset.weak.model, dataset.strong.model
        battles = dataset.battles(self.margin).plus(dataset.preferences).settled(self.ties, weak, strong)
        self.table_, used = BattleTable.of(battles, (weak, strong), self.tiers)
        texts = [battles.queries[i].text for i in used]
        encoder = load_encoder(self.encoder)
        # float16 is within 1e-4 in similarity at half the size; rounded here, a loaded router scores the same
        self._vectors = encoder.embed(texts).astype(np.float16).astype(np.float32)
        self._cluster = clusters_of(self._vectors, self.seed) if len(used) > self.exact else None
        self.texts_ = tuple(text[:_SHOWN] for text in texts) if self.keep_texts else ()
        self._encoder = encoder
        self._lay_out()
        report(f"{len(used):,} battles in {self.table_.pairings} pairings of {self.table_.tier_count} tiers")
        return self

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""
        encoder, table, index = self._fitted("scoring")
        vectors = encoder.embed([q.text for q in queries])
        gaps = np.array([self._fit_one(table, index.weigh(v).totals)[1] for v in vectors], dtype=np.float64)
        return sigmoid(gaps)

    def explain(self, query: Query) -> Mapping[str, float]:
        """How the heaviest battles pulled, signed and in log-odds, largest in size first.

        A battle's pull is its influence on the fit: its weight times its surprise, through the inverse curvature of
        the likelihood. `bias` is the log-odds with all battles alike; with `other battles` all add up to the score's.
        """
        encoder, table, index = self._fitted("explaining")
        near = index.weigh(encoder.embed([query.text])[0])
        theta, gap = self._fit_one(table, near.totals)
        weak, strong = table.pair
        turn = np.linalg.pinv(curvature(table.wins(near.totals) + self._added, theta))
        reach = turn[strong] - turn[weak]
        heaviest = np.argsort(-near.weights, kind="stable")[:_NAMED]
        rows = near.rows[heaviest]
        a, b, won = table.battles(rows)
        surprise = won - 1 / (1 + np.exp(theta[b] - theta[a]))
        pulls = near.weights[heaviest] * surprise * (reach[a] - reach[b])
        terms = {self._name(int(i)): float(p) for i, p in zip(rows, pulls, strict=True)}
        terms["bias"] = self.base_
        terms["other battles"] = gap - sum(terms.values())
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json` (parameters, models) and `battles.npz` (vectors as float16)."""
        encoder, table, _ = self._fitted("saving")
        body = {
            "params": dict(self.params),
            "encoder_digest": encoder.digest,
            "models": dict(table.tier_of),
            "pair": list(table.models),
            "texts": list(self.texts_),
        }
        self._write(directory, body, indent=0, ensure_ascii=False)
        arrays: dict[str, Any] = {"vectors": self._vectors.astype(np.float16), **table.arrays()}
        if self._cluster is not None:
            arrays["cluster"] = self._cluster.astype(np.int32)
        np.savez(directory / "battles.npz", **arrays)

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        self._encoder = saved_encoder(files.path, self.encoder, body["encoder_digest"])
        self.texts_ = tuple(map(str, body["texts"]))
        arrays = files.arrays("battles.npz")
        self.table_ = BattleTable.from_arrays(arrays, body["models"], tuple(body["pair"]))
        self._vectors = arrays["vectors"].astype(np.float32)
        self._cluster = arrays["cluster"].astype(np.int64) if "cluster" in arrays else None
        battles = len(self.table_.won)
        if self._vectors.shape != (battles, self._encoder.dimensions) or len(self.texts_) not in (0, battles):
            raise ValueError(f"vectors of shape {self._vectors.shape} for {battles} battles")
        self._lay_out()

    def _lay_out(self) -> None:
        """What scoring needs, from the table and the vectors."""
        if self.table_ is None:
            return
        table = self.table_
        self._index = BattleIndex(self._vectors, table.cell, table.cell_count, self._cluster)
        self._added = table.missing_losses(_NONE_LOST)
        alike = np.bincount(table.cell, minlength=table.cell_count).astype(np.float64) * 10.0
        self._start = np.zeros(table.tier_count)
        self._start, self.base_ = self._fit_one(table, alike)

    def _fit_one(self, table: BattleTable, totals: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Log-odds of the tiers under these weights, and the gap of the pair."""
        theta = strengths(table.wins(totals) + self._added, self._start)
        weak, strong = table.pair
        return theta, float(theta[strong] - theta[weak])

    def _name(self, row: int) -> str:
        text = f"{self.table_.described(row)} in battle {row}" if self.table_ is not None else ""
        return f"{text}, {self.texts_[row]!r}" if self.texts_ else text

    def _fitted(self, doing: str) -> tuple[SentenceEncoder, BattleTable, BattleIndex]:
        return self._need(self._encoder, doing), self._need(self.table_, doing), self._need(self._index, doing)
