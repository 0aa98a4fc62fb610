"""BARTScore: an answer is as good as a sequence-to-sequence model finds it likely, given the reference."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.base import Range, Report, references_of, silent, with_quality
from serve_app.learning.quality.seq2seq import Pair, Seq2SeqLikelihood

Direction = Literal["faithfulness", "precision", "recall", "f"]
DIRECTIONS: tuple[Direction, ...] = ("faithfulness", "precision", "recall", "f")


class BartScore:
    """Yuan et al. 2021, equation 2 with all weights equal: (1/m) sum over t of log p(y_t | y_<t, x), in (-inf, 0].

    With source s (the query's text), answer h and reference r, the variants of their section 3.2: `faithfulness` reads
    s and writes h, `precision` reads r and writes h, `recall` reads h and writes r, `f` is the mean of the last two.
    As in the authors' own code, m counts every target token that the tokenizer makes, the end token (and BART's begin
    token) with them. Hybrid LLM (Ding et al. 2024) measures the quality q of its quality gap so, on the answers of
    both models.

    `model` is the folder of any Hugging Face encoder-decoder (the paper's is BART large, fine-tuned on CNN/DM).
    """

    name = "bartscore"
    quality_range: Range = (None, 0.0)

    def __init__(
        self,
        model: str | Path,
        direction: Direction = "f",
        batch_size: int = 16,
        max_tokens: int = 1024,
        device: str | None = None,
    ) -> None:
        if direction not in DIRECTIONS:
            raise ConfigError(f"bartscore: direction {direction!r} must be one of {', '.join(DIRECTIONS)}")
        self.direction = direction
        self.max_tokens = max_tokens
        self.model = Path(model)
        self._likelihood = Seq2SeqLikelihood(self.model, batch_size=batch_size, max_tokens=max_tokens, device=device)

    @property
    def options(self) -> Mapping[str, Any]:
        """What the figures depend on: the model by its folder's name."""
        return {"model": self.model.name, "direction": self.direction, "max_tokens": self.max_tokens}

    async def score(self, dataset: Dataset, report: Report = silent) -> Dataset:
        """The dataset with its quality filled, off the event loop; see `Metric.score`."""
        return await asyncio.to_thread(self._score, dataset, report)

    def _score(self, dataset: Dataset, report: Report) -> Dataset:
        sources = tuple(query.text for query in dataset.queries)
        references = sources if self.direction == "faithfulness" else references_of(dataset, self.name)
        answers = [
            (name, row, text) for name, p in dataset.pools.items() for row, t in enumerate(p.texts) for text in t
        ]
        forward: list[Pair] = [(references[row], text) for _, row, text in answers]
        backward = [(answer, given) for given, answer in forward]
        wanted = {"recall": backward, "f": forward + backward}.get(self.direction, forward)
        means = np.array(self._likelihood.mean_log_probability(wanted, lambda line: report(f"{self.name}: {line}")))
        if self.direction == "f":
            means = means.reshape(2, -1).mean(0)
        cut = self._likelihood.truncated
        if cut:
            report(f"{self.name}: {cut:,} texts are longer than the model reads, and lost their end")
        quality, at = {}, 0
        for name, pool in dataset.pools.items():
            quality[name] = means[at : at + pool.quality.size].reshape(pool.quality.shape)
            at += pool.quality.size
        return with_quality(dataset, quality, self, {"truncated": cut} if cut else None)
