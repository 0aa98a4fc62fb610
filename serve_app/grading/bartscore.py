"""BARTScore: the quality of an answer is its likelihood under a sequence-to-sequence model, given the reference.

The model is any Hugging Face folder with safetensors.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError, DataError
from serve_app.grading.base import Range, Report, references_of, silent, with_quality
from serve_app.learning.seq2seq import IGNORED, load_seq2seq

Pair = tuple[str, str]
"""Source and target text."""
_TARGET_TOKENS = 2048
"""Target tokens of one forward pass, padding counted: a vocabulary of 50,000 takes 0.2 MB of logits for each."""
_REPORTED_EVERY = 50
"""Batches between two lines of progress."""


class Seq2SeqLikelihood:
    """Mean log-probability (natural log) of a target's tokens given a source, under one encoder-decoder model.

    Texts beyond `max_tokens`, or what the model can read, lose their end; `truncated` counts them. `device` is any
    that torch names; by default a GPU if there is one.
    """

    def __init__(
        self, folder: Path, *, batch_size: int = 16, max_tokens: int = 1024, device: str | None = None
    ) -> None:
        if batch_size < 1 or max_tokens < 1:
            raise ConfigError(f"batch_size {batch_size} and max_tokens {max_tokens} must each be 1 or more")
        self._read = load_seq2seq(folder, device)
        self._tokenizer = self._read.tokenizer
        self._batch_size = batch_size
        self._source_tokens = min(max_tokens, self._read.positions("encoder"))
        self._target_tokens = min(max_tokens, self._read.positions("decoder"))
        self.truncated = 0

    def mean_log_probability(self, pairs: Sequence[Pair], report: Report = silent) -> list[float]:
        """For each pair the mean over all target tokens, the end token with them; equal pairs are computed once.

        Raises DataError for a target without a token.
        """
        distinct = list(dict.fromkeys(pairs))
        sources, cut_sources = self._encode([source for source, _ in distinct], self._source_tokens)
        targets, cut_targets = self._encode([target for _, target in distinct], self._target_tokens)
        self.truncated = len(cut_sources | cut_targets)
        if empty := [pair for pair, ids in zip(distinct, targets, strict=True) if not ids]:
            raise DataError(f"the target {empty[0][1][:80]!r} has no token under this model, so no mean: leave it out")
        found: dict[Pair, float] = {}
        for number, rows in enumerate(self._batches(sources, targets), 1):
            means = self._forward([sources[i] for i in rows], [targets[i] for i in rows])
            found.update(zip((distinct[i] for i in rows), means, strict=True))
            if number % _REPORTED_EVERY == 0:
                report(f"{len(found):,} of {len(distinct):,} texts scored")
        return [found[pair] for pair in pairs]

    def _encode(self, texts: list[str], most: int) -> tuple[list[list[int]], set[str]]:
        """Token ids of each text, at most `most`, and the texts that were cut."""
        if not texts:
            return [], set()
        ids = self._tokenizer(texts, truncation=True, max_length=most)["input_ids"]
        full = {text for text, row in zip(texts, ids, strict=True) if len(row) == most}
        return ids, {text for text in full if len(self._tokenizer(text, verbose=False)["input_ids"]) > most}

    def _batches(self, sources: list[list[int]], targets: list[list[int]]) -> Iterator[list[int]]:
        """Positions of pairs of like length, so that little is padding."""
        rows: list[int] = []
        for i in sorted(range(len(targets)), key=lambda i: (len(targets[i]), len(sources[i]))):
            if rows and (len(rows) == self._batch_size or (len(rows) + 1) * len(targets[i]) > _TARGET_TOKENS):
                yield rows
                rows = []
            rows.append(i)
        if rows:
            yield rows

    def _forward(self, sources: list[list[int]], targets: list[list[int]]) -> list[float]:
        import torch

        read, mask = self._read.padded(sources, self._tokenizer.pad_token_id)
        labels, _ = self._read.padded(targets, IGNORED)
        with torch.inference_mode():
            logits = self._read.model(input_ids=read, attention_mask=mask, labels=labels, use_cache=False).logits
            lost = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
            )
            means = -lost.sum(1) / (labels != IGNORED).sum(1)
        return [float(mean) for mean in means.cpu()]


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
        rows = [(row, texts) for pool in dataset.pools.values() for row, texts in enumerate(pool.texts)]
        forward: list[Pair] = [(references[row], text) for row, texts in rows for text in texts]
        backward = [(answer, given) for given, answer in forward]
        pairs = {"recall": backward, "f": forward + backward}.get(self.direction, forward)
        means = np.array(self._likelihood.mean_log_probability(pairs, lambda line: report(f"{self.name}: {line}")))
        if self.direction == "f":
            means = means.reshape(2, -1).mean(0)
        if cut := self._likelihood.truncated:
            report(f"{self.name}: {cut:,} texts are longer than the model reads, and lost their end")
        quality, at = {}, 0
        for name, pool in dataset.pools.items():
            quality[name] = means[at : at + pool.quality.size].reshape(pool.quality.shape)
            at += pool.quality.size
        return with_quality(dataset, quality, self, {"truncated": cut} if cut else None)
