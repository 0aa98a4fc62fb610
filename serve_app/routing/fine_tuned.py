"""What the routers on a fine-tuned encoder share: Hybrid LLM's three and RouteLLM's `bert` differ in labels alone.

Scored in batches, a forward pass of the encoder each; see `learning.finetune` for how they are trained.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset
from serve_app.learning.encoder import DEFAULT
from serve_app.learning.finetune import Recipe
from serve_app.learning.text_classifier import Setting, TextClassifier
from serve_app.routing.artefact import read_json
from serve_app.routing.base import Placement, Report, silent
from serve_app.types import Query

FORMAT = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Targets:
    """What is learned: labels of shape [len(texts), classes], each row a distribution; class 0 is a strong win."""

    texts: Sequence[str]
    labels: Floats


class FineTunedRouter:
    """Strong win rate as the probability of class 0 that a fine-tuned encoder gives to the whole conversation.

    `encoder` is `minilm`, the folder of any Hugging Face encoder, or `small-from-scratch` (a small BERT trained from
    nothing on these queries; `scratch-3x64` for three layers of width 64). `train_layers` counts the layers that are
    fine-tuned, from the encoder's end; None is all of it. Of a conversation beyond `max_tokens` the end is read.
    Learned: `classifier_`. With `checkpoint`, a folder, a long `fit` goes on where it was killed.
    """

    name: ClassVar[str]
    placement: Placement = "batched"

    def __init__(
        self,
        seed: int = 0,
        *,
        encoder: str = DEFAULT,
        train_layers: int | None = 2,
        epochs: int = 6,
        learning_rate: float = 3e-4,
        max_tokens: int = 256,
    ) -> None:
        if epochs < 1 or learning_rate <= 0 or max_tokens < 8:
            raise ConfigError(
                f"{self.name}: epochs is {epochs}, learning_rate {learning_rate}, max_tokens {max_tokens}; "
                "give at least 1, more than 0 and at least 8"
            )
        self.setting = Setting(encoder, train_layers, max_tokens)
        self.recipe = Recipe(epochs, learning_rate, seed)
        self.checkpoint: Path | None = None
        self.classifier_: TextClassifier | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        """The constructor's arguments."""
        return {
            "seed": self.recipe.seed,
            "encoder": self.setting.encoder,
            "train_layers": self.setting.train_layers,
            "epochs": self.recipe.epochs,
            "learning_rate": self.recipe.learning_rate,
            "max_tokens": self.setting.max_tokens,
        }

    def targets(self, dataset: Dataset, report: Report) -> Targets:
        """What this router learns from the dataset. Raises ConfigError if the dataset cannot teach it."""
        raise NotImplementedError

    def learned(self) -> Mapping[str, Any]:
        """What is learned beside the classifier, JSON-ready."""
        return {}

    def recall(self, learned: Mapping[str, Any]) -> None:
        """Take back what `learned` gave."""

    def fit(self, dataset: Dataset, report: Report = silent) -> Self:
        """Fine-tune on the dataset's labels; stops early on texts that it holds back.

        Raises ConfigError for an empty dataset, or one whose answers are not scored.
        """
        if len(dataset) == 0:
            raise ConfigError(f"{self.name}: the dataset is empty; collect answers first")
        targets = self.targets(dataset, report)
        self.classifier_ = TextClassifier.fit(
            self.setting, targets.texts, targets.labels, self.recipe, report, self.checkpoint
        )
        return self

    def score(self, queries: Sequence[Query]) -> Floats:
        """Strong win rates, shape [len(queries)]."""
        return self._fitted("scoring").probabilities([query.text for query in queries])[:, 0]

    def explain(self, query: Query) -> Mapping[str, float]:
        """How far each word moves the score's log-odds, by leaving it out; largest first."""
        return self._fitted("explaining").explain(query.text, 0)

    def save(self, directory: Path) -> None:
        """Write `router.json` and the fine-tuned weights (half precision)."""
        kept = self._fitted("saving").save(directory)
        body = {
            "format": FORMAT,
            "kind": self.name,
            "params": dict(self.params),
            "learned": dict(self.learned()),
            "classifier": dict(kept),
        }
        (directory / "router.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The router saved there. Raises ConfigError naming the file and the mend."""
        path = directory / "router.json"
        body = read_json(path, kind=cls.name, version=FORMAT)
        try:
            router = cls(**body["params"])
            router.recall(body["learned"])
            router.classifier_ = TextClassifier.load(directory, router.setting, body["classifier"])
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigError(f"{path}: cannot be read ({e!r}); train and save the router again") from e
        return router

    def _fitted(self, before: str) -> TextClassifier:
        if self.classifier_ is None:
            raise ConfigError(f"{self.name}: the router is not fitted; fit or load it before {before}")
        return self.classifier_
