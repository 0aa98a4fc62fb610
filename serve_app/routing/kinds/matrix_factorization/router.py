"""RouteLLM's matrix factorisation router (Ong et al. 2024, arXiv 2406.18665, section 4.2 and its released script).

Trains on battles: the pools' own answers and, where the dataset has them, battles among any number of other models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import sigmoid
from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Preferences, Ties
from serve_app.errors import ConfigError
from serve_app.learning.encoder import DEFAULT, SentenceEncoder, load_encoder, saved_encoder
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, largest_first, silent
from serve_app.routing.kinds.matrix_factorization.factorization import Battles, FactorRecipe, Factors, train_factors
from serve_app.types import Query

_ARRAYS = ("models", "projection", "weights")


_RECIPE = FactorRecipe()
_REPORTED_EVERY = 100
"""Epochs, of which there are hundreds, from one line of progress to the next."""


@dataclass(eq=False, kw_only=True)
class MatrixFactorizationRouter(LearnedRouter):
    """Strong win rate as sigmoid(d(strong, q) - d(weak, q)) of a bilinear model; see `factorization`.

    Learned: `factors_`, `models_` (names in the order of the factors), `pair_` (weak, strong), `epochs_`. Which pair is
    routed does not change the factors. At scoring the difference of the two logits is one dot product with the
    embedding. `margin` is the difference of quality up to which two answers tie.

    Deviations from RouteLLM's script. The epoch that is best on prompts held back is taken, not the last; few battles
    are trained for more epochs; embeddings here have 384 numbers, not 1,536, and half the noise. The script drops
    ties, which leaves nothing to learn where the strong model hardly ever loses: `ties="drop"` does that. By default a
    tie is half a win for either, as in `sw_ranking`; with "weak" it is a win of the pair's weak model, whose answer
    was enough, and the score is the rate at which the strong one is strictly better. With the defaults, on five folds
    of recorded answers, APGR is 0.573 on GSM8K and 0.600 on MMLU (benchmarks/results/recorded_routing.md).
    """

    name = "mf"

    encoder: str = DEFAULT
    ties: Ties = "half"
    margin: float = 0.0
    seed: int = 0
    dimensions: int = _RECIPE.dimensions
    epochs: int = _RECIPE.epochs
    least_steps: int = _RECIPE.least_steps
    learning_rate: float = _RECIPE.learning_rate
    weight_decay: float = _RECIPE.weight_decay
    batch: int = _RECIPE.batch
    noise: float = _RECIPE.noise
    held_back: float = _RECIPE.held_back
    patience: float = _RECIPE.patience

    def __post_init__(self) -> None:
        if self.ties not in get_args(Ties):
            raise ConfigError(f"mf: ties is {self.ties!r}; give one of {', '.join(get_args(Ties))}")
        self.recipe = FactorRecipe(**{field.name: getattr(self, field.name) for field in fields(FactorRecipe)})
        self.factors_: Factors | None = None
        self.models_: tuple[str, ...] = ()
        self.pair_ = ("", "")
        self.epochs_ = 0
        self._encoder: SentenceEncoder | None = None
        self._direction = np.zeros(0)

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        """Learn from the dataset's battles; needs torch.

        Raises ConfigError for an empty dataset, one with ties alone, or one without battles of the pair.
        """
        if len(dataset) == 0:
            raise ConfigError("mf: the dataset is empty; collect answers first")
        pair = (dataset.weak.model, dataset.strong.model)
        preferences = dataset.battles(self.margin).plus(dataset.preferences).settled(self.ties, *pair)
        names = sorted({*preferences.model_a, *preferences.model_b})
        if missing := [name for name in pair if name not in names]:
            raise ConfigError(f"mf: no battle of {missing[0]!r} is decided; collect more answers, or give ties='half'")
        encoder = load_encoder(self.encoder)
        texts = [q.text for q in preferences.queries]
        rows = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        battles = _battles(preferences, [rows[t] for t in texts], names)
        report(f"{len(battles)} battles over {len(rows)} prompts among {len(names)} models")
        embeddings = encoder.embed(list(rows))
        epochs = _sparse(report)
        self.factors_, self.epochs_ = train_factors(embeddings, battles, len(names), self.recipe, self.seed, epochs)
        self.models_, self.pair_, self._encoder = tuple(names), pair, encoder
        self._aim()
        return self

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""
        embedded = self._need(self._encoder, "scoring").embed([q.text for q in queries]).astype(np.float64)
        # row by row, so that a query's score does not depend on its batch
        log_odds = np.array([row @ self._direction for row in embedded], dtype=np.float64)
        return sigmoid(log_odds)

    def explain(self, query: Query) -> Mapping[str, float]:
        """d(strong, q) and -d(weak, q) by model name, larger first: together they are the score's log-odds."""
        encoder, factors = self._need(self._encoder, "explaining"), self._need(self.factors_, "explaining")
        logits = factors.logits(encoder.embed([query.text])[0])
        weak, strong = (float(logits[self.models_.index(name)]) for name in self.pair_)
        terms = {f"strong:{self.pair_[1]}": strong, f"weak:{self.pair_[0]}": -weak}
        return largest_first(terms)

    def save(self, directory: Path) -> None:
        """Write `router.json` and `factors.npz` (float32)."""
        encoder, factors = self._need(self._encoder, "saving"), self._need(self.factors_, "saving")
        body = {
            "params": dict(self.params),
            "encoder": {"name": encoder.name, "digest": encoder.digest},
            "models": self.models_,
            "pair": self.pair_,
            "epochs": self.epochs_,
        }
        self._write(directory, body, indent=1, ensure_ascii=False)
        arrays: dict[str, Any] = {name: getattr(factors, name) for name in _ARRAYS}
        np.savez_compressed(directory / "factors.npz", **arrays)

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        self._encoder = saved_encoder(files.path, body["encoder"]["name"], body["encoder"]["digest"])
        self.models_ = tuple(body["models"])
        self.pair_ = (body["pair"][0], body["pair"][1])
        self.epochs_ = int(body["epochs"])
        arrays = files.arrays("factors.npz")
        self.factors_ = Factors(*(arrays[name].astype(np.float32) for name in _ARRAYS))
        self._aim()
        if len(self._direction) != self._encoder.dimensions:
            wrong = f"not for vectors of {self._encoder.dimensions} numbers"
            raise ConfigError(f"{files.path}: {wrong}; train the router again")

    def _aim(self) -> None:
        """Lay out the pair's direction once."""
        if self.factors_ is not None:
            weak, strong = (self.models_.index(name) for name in self.pair_)
            self._direction = self.factors_.direction(strong, weak)


def _sparse(report: Report) -> Report:
    """Reports the first of every hundred lines."""
    lines = count()
    return lambda line: None if next(lines) % _REPORTED_EVERY else report(line)


def _battles(preferences: Preferences, prompts: list[int], names: list[str]) -> Battles:
    """Winner first; either may stand first in a tie."""
    position = {name: i for i, name in enumerate(names)}
    a, b = (np.array([position[n] for n in column]) for column in (preferences.model_a, preferences.model_b))
    outcome = preferences.outcome
    first, second = np.where(outcome == 0.0, b, a), np.where(outcome == 0.0, a, b)
    won = np.maximum(outcome, 1.0 - outcome).astype(np.float32)
    return Battles(np.array(prompts, dtype=np.int64), first, second, won)
