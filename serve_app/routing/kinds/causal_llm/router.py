"""RouteLLM's causal LLM router: a language model says how well the weak model will answer (arXiv 2406.18665, 4.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.lab import models_dir
from serve_app.routing.artefact import LearnedRouter, RouterFiles
from serve_app.routing.base import Report, silent
from serve_app.routing.kinds.causal_llm.rating_model import (
    INSTRUCTION,
    RATINGS,
    RatingModel,
    check_files,
)
from serve_app.routing.kinds.causal_llm.rating_training import RatingRecipe, train_ratings
from serve_app.types import Query

GOOD = 4
"""The lowest rating at which the weak model's answer is good enough."""
LAB = "lab:"
"""Before the name of a lab model."""


@dataclass(eq=False, kw_only=True)
class CausalLlmRouter(LearnedRouter):
    """1 - P(rating >= 4), with the probabilities of the five rating tokens among themselves, after an instruction.

    The rating is of the weak model's answer; 5 means surely good. If the model's likeliest token is not a rating, the
    score is 1. The model is fine-tuned in whole on ratings of the dataset's queries:
    the strong win rate over all pairs of samples in fifths, 5 where it is below 0.2 down to 1 from 0.8 on (with one
    sample each: 1 where the strong model is better, else 5), and of the pair's further preferences 1 where the strong
    model won, 4 for a tie, 5 where the weak model won. `model` is a Hugging Face folder, or `lab:large` and the like.
    With `checkpoint`, a folder, a killed `fit` resumes.
    """

    name = "causal_llm"
    placement = "scorer"

    model: str = f"{LAB}large"
    instruction: str = INSTRUCTION
    max_tokens: int = 512
    epochs: int = 4
    learning_rate: float = 3e-4
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.learning_rate <= 0 or self.max_tokens < 16:
            raise ConfigError(
                f"causal_llm: epochs is {self.epochs}, batch {self.batch}, learning_rate {self.learning_rate}, "
                f"max_tokens {self.max_tokens}; give at least 1, at least 1, more than 0 and at least 16"
            )
        self.recipe = RatingRecipe(self.epochs, self.learning_rate, self.batch, self.seed)
        self.checkpoint: Path | None = None
        self.model_: RatingModel | None = None

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        """Fine-tune the model; stops early on questions that it holds back.

        Raises ConfigError for an empty dataset, one without ratings, or a folder without a usable model.
        """
        if len(dataset) == 0:
            raise ConfigError("causal_llm: the dataset is empty; collect answers first")
        questions, ratings = rated(dataset)
        if len(ratings) == 0:
            raise ConfigError("causal_llm: no query has a quality or a preference of the pair; score the dataset first")
        report(f"{len(ratings):,} ratings, {np.bincount(ratings, minlength=6)[1:].tolist()} from 1 to 5")
        model = RatingModel(self._folder(), self.instruction, self.max_tokens)
        train_ratings(model, questions, ratings, self.recipe, report, self.checkpoint)
        self.model_ = model
        return self

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        """Strong win rates, shape [len(queries)], each in [0, 1]."""
        found = self._need(self.model_, "scoring").rate([q.text for q in queries])
        scores: NDArray[np.float64] = np.where(found.parsable, 1.0 - found.chances[:, GOOD - 1 :].sum(1), 1.0)
        return np.clip(scores, 0.0, 1.0)

    def explain(self, query: Query) -> Mapping[str, float]:
        """Probabilities of the five ratings, and `unparsable` 1 if the model's likeliest token is none of them."""
        found = self._need(self.model_, "explaining").rate([query.text])
        terms = {f"rating {r}": float(p) for r, p in zip(RATINGS, found.chances[0], strict=True)}
        terms["unparsable"] = float(not found.parsable[0])
        return dict(sorted(terms.items(), key=lambda term: -term[1]))

    def save(self, directory: Path) -> None:
        """Write the model's own files next to `router.json`, which holds their hashes."""
        files = self._need(self.model_, "saving").save(directory)
        self._write(directory, {"params": dict(self.params), "files": files}, indent=1, ensure_ascii=False)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """See Router."""
        router = super().load(directory)
        router.model_ = RatingModel(directory, router.instruction, router.max_tokens)
        router.model_.ready()
        return router

    def _restore(self, body: Mapping[str, Any], files: RouterFiles) -> None:
        check_files(files.folder, body["files"])

    def _folder(self) -> Path:
        return models_dir() / self.model.removeprefix(LAB) if self.model.startswith(LAB) else Path(self.model)


def rated(dataset: Dataset) -> tuple[list[str], NDArray[np.int64]]:
    """Questions with the rating of the weak model's answer, 1 to 5; see `CausalLlmRouter`."""
    weak, strong = dataset.weak, dataset.strong
    scored = np.flatnonzero(np.isfinite(weak.quality).all(1) & np.isfinite(strong.quality).all(1))
    fifths = np.minimum(np.floor(dataset.take(scored).strong_win_rate() * 5 + 1e-9), 4).astype(np.int64)
    questions = [dataset.queries[i].text for i in scored]
    judged = [] if dataset.preferences is None else list(_judged(dataset.preferences, weak.model, strong.model))
    questions += [text for text, _ in judged]
    return questions, np.concatenate([5 - fifths, np.array([rating for _, rating in judged], dtype=np.int64)])


def _judged(battles: Preferences, weak: str, strong: str) -> list[tuple[str, int]]:
    found = []
    columns = zip(battles.queries, battles.model_a, battles.model_b, battles.outcome.tolist(), strict=True)
    for query, a, b, outcome in columns:
        if {a, b} == {weak, strong} and a != b:
            strong_won = outcome if a == strong else 1.0 - outcome
            found.append((query.text, {1.0: 1, 0.5: 4, 0.0: 5}[strong_won]))
    return found
