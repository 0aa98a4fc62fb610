"""The stacked router: how much better the strong model's answer is, by three estimates that are weighed on the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.validation import PAIR, check_scored
from serve_app.errors import ConfigError
from serve_app.learning.encoder import DEFAULT, Vectors, load_encoder, saved_encoder
from serve_app.learning.features import rows_by_text
from serve_app.learning.logistic import folds_of, means_by_text
from serve_app.learning.ridge import Ridge, fit_ridge
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, largest_first, silent
from serve_app.routing.kinds.complexity.router import ComplexityRouter
from serve_app.routing.kinds.stacked.query_view import DEPTHS, END, QueryView, layer_views, surface
from serve_app.routing.kinds.stacked.stacking import KernelRidge, Stack
from serve_app.types import Query

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset

_FOLDS = 5
LINEAR, KERNEL, COMPLEXITY = "linear", "kernel", "complexity"
_PRIOR = {LINEAR: 0.5, KERNEL: 0.3, COMPLEXITY: 0.2}
"""Weights where the data say nothing: the more an estimate can bend, the less it is trusted."""
_COMPLEXITY_FOLDER = "complexity"


@dataclass(eq=False)
class StackedRouter(LearnedRouter):
    """Strong win rate by ridge regression, kernel ridge regression and the complexity router, stacked.

    The regressions estimate how much better the strong answer is (uplift), not whether it is: what routing gains
    depends on that alone. `loss_weight` is what a loss of the strong model counts, as a share of a win: losses are
    rare and mostly noise where the strong model is much better. They read the layers of an encoder (`LayerViews`) and
    the surface of the text (`surface`). Learned: `view_`, `linear_`, `kernel_`, `complexity_`, `stack_`.
    `encoder` as `load_encoder` takes it; `seed` draws landmarks and folds.
    """

    name = "stacked"

    encoder: str = DEFAULT
    loss_weight: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.loss_weight <= 1.0:
            raise ConfigError(f"stacked: loss_weight is {self.loss_weight}; give a number in [0, 1]")
        self.view_: QueryView | None = None
        self.linear_ = Ridge(np.zeros(0), 0.0, 0.0)
        self.kernel_: KernelRidge | None = None
        self.complexity_ = ComplexityRouter(self.seed)
        self.stack_ = Stack({}, 0.0, 0.0)

    def fit(self, dataset: "Dataset", report: Report = silent) -> Self:
        """Learn from queries with the quality of both pools' answers; needs the extra `train`.

        Queries of equal text count once, with their mean. Raises ConfigError for data that are empty or not
        scored, DependencyError without scikit-learn.
        """
        check_scored(dataset, self.name, PAIR)
        rows = rows_by_text([q.text for q in dataset.queries])
        texts = list(rows)
        target = means_by_text(_uplift(dataset, self.loss_weight), rows)
        wins = means_by_text(dataset.strong_win_rate(), rows)
        report(f"stacked: reading {len(texts):,} distinct queries")
        layers, looks = layer_views(self.encoder).embed(texts), surface(texts)
        self.view_ = QueryView.fit(layers, looks)
        matrix = self.view_.rows(layers, looks)
        self.linear_, linear = fit_ridge(matrix, target)
        self.kernel_, kernel = KernelRidge.fit(matrix, target, self.seed)
        report(f"stacked: ridge penalty {self.linear_.penalty:g}; cross-fitting the complexity router")
        complexity = _cross_fitted(dataset, rows, self.seed)
        self.complexity_ = ComplexityRouter(self.seed).fit(dataset)
        self.stack_ = Stack.fit({LINEAR: linear, KERNEL: kernel, COMPLEXITY: complexity}, _PRIOR, target, wins)
        report("stacked: " + ", ".join(f"{name} weighs {w:.2f}" for name, w in self.stack_.weights.items()))
        return self

    def score(self, queries: Sequence[Query]) -> Floats:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""
        found = []
        for row, query in zip(self._rows(queries, "scoring"), queries, strict=True):
            found.append(_sigmoid(self.stack_.log_odds(self._estimates(row, query))))
        return np.array(found, dtype=np.float64)

    def explain(self, query: Query) -> Mapping[str, float]:
        """Signed contributions in log-odds, largest in size first; with `bias` they add up to the score's log-odds.

        `whole` and `end` are what the encoder reads in the whole text and in its last tokens, each name of SURFACE
        what can be counted; `like queries` is the kernel's term, `complexity` that of the complexity router.
        """
        row = self._rows((query,), "explaining")[0]
        assert self.view_ is not None
        estimates, slope = self._estimates(row, query), self.stack_.slope
        of = {name: slope * weight for name, weight in self.stack_.weights.items()}
        terms: dict[str, float] = {}
        moved = row.astype(np.float64) * self.linear_.weights
        for group, value in zip(self.view_.groups(layer_views(self.encoder).views), moved.tolist(), strict=True):
            terms[group] = terms.get(group, 0.0) + of[LINEAR] * value
        terms["like queries"] = of[KERNEL] * estimates[KERNEL]
        terms["complexity"] = of[COMPLEXITY] * estimates[COMPLEXITY]
        terms["bias"] = self.stack_.log_odds(estimates) - sum(terms.values())
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json`, `stacked.npz`, and the complexity router in a folder of its own."""
        view, kernel = self._need(self.view_, "saving"), self._need(self.kernel_, "saving")
        body = {
            "params": dict(self.params),
            "encoder_digest": load_encoder(self.encoder).digest,
            "depths": list(DEPTHS),
            "end": END,
            "stack": {"weights": dict(self.stack_.weights), "slope": self.stack_.slope, "bias": self.stack_.bias},
        }
        self._write(directory, body, indent=0)
        arrays: dict[str, Any] = {
            "linear_weights": self.linear_.weights,
            "linear_bias": np.array(self.linear_.bias),
            "linear_penalty": np.array(self.linear_.penalty),
        }
        arrays |= {**view.arrays(), **kernel.arrays()}
        np.savez(directory / "stacked.npz", **arrays)
        self.complexity_.save(directory / _COMPLEXITY_FOLDER)

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        saved_encoder(files.path, self.encoder, body["encoder_digest"])
        if (body["depths"], body["end"]) != (list(DEPTHS), END):
            raise ValueError("the views are others than this version's")
        weights = {str(name): float(weight) for name, weight in body["stack"]["weights"].items()}
        if set(weights) != set(_PRIOR):
            raise ValueError("the experts are others than this version's")
        self.stack_ = Stack(weights, float(body["stack"]["slope"]), float(body["stack"]["bias"]))
        arrays = files.arrays("stacked.npz")
        self.view_ = QueryView.from_arrays(arrays, layer_views(self.encoder).columns)
        columns = len(self.view_.mean)
        self.kernel_ = KernelRidge.from_arrays(arrays, columns)
        linear = arrays["linear_weights"].astype(np.float64)
        if linear.shape != (columns,):
            raise ValueError("the ridge has another number of columns")
        self.linear_ = Ridge(linear, float(arrays["linear_bias"]), float(arrays["linear_penalty"]))
        self.complexity_ = ComplexityRouter.load(files.folder / _COMPLEXITY_FOLDER)

    def _rows(self, queries: Sequence[Query], act: str) -> Vectors:
        texts = [q.text for q in queries]
        return self._need(self.view_, act).rows(layer_views(self.encoder).embed(texts), surface(texts))

    def _estimates(self, row: Vectors, query: Query) -> dict[str, float]:
        assert self.kernel_ is not None
        return {
            LINEAR: float(row.astype(np.float64) @ self.linear_.weights) + self.linear_.bias,
            KERNEL: self.kernel_.predict(row),
            COMPLEXITY: float(self.complexity_.score((query,))[0]),
        }


def _uplift(dataset: "Dataset", loss_weight: float) -> Floats:
    """Mean over pairs of samples of (strong - weak), losses weighed, in units of the largest difference; [n]."""
    gap = dataset.strong.quality[:, :, None] - dataset.weak.quality[:, None, :]
    counted = np.where(gap < 0, loss_weight * gap, gap).mean(axis=(1, 2))
    widest = float(np.abs(gap).max())
    uplift: Floats = counted / widest if widest > 0 else counted
    return uplift


def _cross_fitted(dataset: "Dataset", rows: Mapping[str, Sequence[int]], seed: int) -> Floats:
    """The complexity router's score of each distinct text by a fit on the other folds, shape [texts]."""
    texts, first = list(rows), [at[0] for at in rows.values()]
    fold_of_text = folds_of(texts, _FOLDS, seed)
    fold_of_row = folds_of([q.text for q in dataset.queries], _FOLDS, seed)
    found = np.full(len(texts), float(dataset.strong_win_rate().mean()))
    for fold in np.unique(fold_of_text):
        inside, others = np.flatnonzero(fold_of_text == fold), np.flatnonzero(fold_of_row != fold)
        if len(others):
            router = ComplexityRouter(seed).fit(dataset.take(others))
            found[inside] = router.score([dataset.queries[first[i]] for i in inside])
    return found


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + exp(-x)) if x >= 0 else exp(x) / (1.0 + exp(x))
