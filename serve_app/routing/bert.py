"""RouteLLM's `bert`: a text classifier with three outcomes, strong wins, tie and weak wins.

Ong et al. 2024, arXiv 2406.18665, section 4.2: an encoder is fine-tuned whole on preference data, and the strong win
rate is what remains beside a tie or a win of the weak model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset
from serve_app.learning.encoder import DEFAULT
from serve_app.learning.preferences import Preferences
from serve_app.routing.base import Report
from serve_app.routing.fine_tuned import FineTunedRouter, Targets


class BertRouter(FineTunedRouter):
    """Score = 1 - P(tie or weak wins), from battles of the pair.

    Battles are the pools' own answers, one a query by mean quality (a tie where both differ by at most `margin`), and
    those of `dataset.preferences` that are fought between these two models; others say nothing of this pair to a
    classifier that sees the query alone.
    """

    name = "bert"

    def __init__(
        self,
        seed: int = 0,
        *,
        encoder: str = DEFAULT,
        train_layers: int | None = 2,
        epochs: int = 6,
        learning_rate: float = 3e-4,
        max_tokens: int = 256,
        margin: float = 0.0,
    ) -> None:
        super().__init__(
            seed,
            encoder=encoder,
            train_layers=train_layers,
            epochs=epochs,
            learning_rate=learning_rate,
            max_tokens=max_tokens,
        )
        self.margin = margin

    @property
    def params(self) -> Mapping[str, Any]:
        """The constructor's arguments."""
        return {**super().params, "margin": self.margin}

    def targets(self, dataset: Dataset, report: Report) -> Targets:
        """Three classes: strong wins, tie, weak wins."""
        weak, strong = dataset.weak.model, dataset.strong.model
        battles = Preferences.of(dataset, self.margin).plus(dataset.preferences)
        orientation = [
            1 if (a, b) == (strong, weak) else -1 if (a, b) == (weak, strong) else 0
            for a, b in zip(battles.model_a, battles.model_b, strict=True)
        ]
        rows = np.flatnonzero(orientation)
        if len(rows) == 0:
            raise ConfigError(f"bert: no battle of {strong!r} and {weak!r}; score the dataset, or give preferences")
        # outcome 1 is a win of model a: of the strong one if the orientation is 1
        won = 0.5 + (battles.outcome[rows] - 0.5) * np.array(orientation)[rows]
        labels = np.stack([won == 1.0, won == 0.5, won == 0.0], axis=1).astype(np.float64)
        report(
            f"bert: {len(rows):,} battles, {len(battles) - len(rows):,} of other models left out; strong wins "
            f"{100 * labels[:, 0].mean():.1f} %, ties {100 * labels[:, 1].mean():.1f} %"
        )
        return Targets([battles.queries[i].text for i in rows], labels)
