"""The Engine of kind `encoder`: it embeds texts and answers no chat. See `EncoderModel` and `RowBatches`."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Final

from serve_app.config.adapters import AdaptersConfig
from serve_app.config.engines import EncoderSettings
from serve_app.engines.base import EngineHealth
from serve_app.engines.embedding.batches import RowBatches
from serve_app.engines.embedding.model import EncoderModel, shortened
from serve_app.engines.embedding.request import Embedded, Input
from serve_app.engines.transformers.metrics import EngineFigures
from serve_app.errors import ContextLengthExceeded, Overloaded, RequestError, UnsupportedParameter
from serve_app.types import Capabilities, Chunk, Query

_RETRY_S: Final = 1.0
_INLINE: Final = 2000
"""Characters that are made tokens in the event loop, in about 0.1 ms; a thread for them would take longer."""


class EncoderEngine:
    """Runs one encoder. Many `embed` calls run at once and share its passes."""

    def __init__(self, model: str, settings: EncoderSettings, adapters: AdaptersConfig | None = None) -> None:
        self.model = model
        self.capabilities = Capabilities(logprobs=False, embeddings=True)
        self._settings = settings
        self._figures = EngineFigures(model)
        self._encoder: EncoderModel | None = None
        self._batches: RowBatches | None = None

    async def start(self) -> None:
        """See Engine."""
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        encoder = self._encoder = EncoderModel(self._settings.path, self._settings.window)
        self._batches = RowBatches(
            encoder.vectors, encoder.dimensions, self._settings.threads, partial(encoder.begin_thread, 1), self._ran
        )
        self._batches.start()

    def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """Refuses every query: an encoder writes nothing."""
        raise self._no_chat()

    def _no_chat(self) -> UnsupportedParameter:
        return UnsupportedParameter(
            f"{self.model} is an embedding model: call /v1/embeddings, or a chat model here", param="model"
        )

    async def count_tokens(self, query: Query) -> int:
        """Refuses every query, as `stream` does."""
        raise self._no_chat()

    async def embed(self, inputs: Sequence[Input], dimensions: int | None = None) -> Embedded:
        """A unit vector for each input.

        Raises:
            RequestError: `dimensions` is more than the model has, or a token id that it does not have.
            ContextLengthExceeded: an input is beyond the window, and such inputs are to be refused.
            Overloaded: too many inputs wait already.
        """
        encoder, batches = self._encoder, self._batches
        if encoder is None or batches is None:
            raise RuntimeError("the engine is not started")
        if dimensions is not None and dimensions > encoder.dimensions:
            raise RequestError(
                f"dimensions: {self.model} has {encoder.dimensions}, got {dimensions}: use at most that many.",
                param="dimensions",
                code="invalid_value",
            )
        if batches.waiting and batches.waiting + len(inputs) > self._settings.max_waiting:
            raise Overloaded(
                f"the model is busy: {batches.waiting} inputs are waiting; try again later", retry_after_s=_RETRY_S
            )
        short = sum(map(len, inputs)) <= _INLINE
        rows = self._rows(encoder, inputs) if short else await asyncio.to_thread(self._rows, encoder, inputs)
        kept = [encoder.cut(row) for row in rows]
        truncated = sum(len(row) > encoder.window for row in rows)
        vectors = await batches.vectors(kept)
        return Embedded(shortened(vectors, dimensions), sum(map(len, kept)), truncated)

    def _rows(self, encoder: EncoderModel, inputs: Sequence[Input]) -> list[list[int]]:
        texts = [each for each in inputs if isinstance(each, str)]
        of_texts = iter(encoder.tokens(texts))
        rows = []
        for at, each in enumerate(inputs):
            row = next(of_texts) if isinstance(each, str) else self._of_ids(encoder, each, at)
            if len(row) > encoder.window and self._settings.too_long == "refuse":
                raise ContextLengthExceeded(
                    f"input[{at}] has {len(row)} tokens, and {self.model} reads {encoder.window}: split it.",
                    param="input",
                )
            rows.append(row)
        return rows

    def _of_ids(self, encoder: EncoderModel, ids: Sequence[int], at: int) -> list[int]:
        if (wrong := next((i for i in ids if not 0 <= i < encoder.vocabulary), None)) is not None:
            raise RequestError(
                f"input[{at}]: {wrong} is no token of {self.model}, which has {encoder.vocabulary}. Token ids are "
                "the model's own, not those of OpenAI's tokenizers: send text.",
                param="input",
                code="invalid_value",
            )
        return encoder.complete(ids)

    def _ran(self, tokens: int, rows: int, seconds: float) -> None:
        self._figures.encoded(tokens, rows, seconds)

    def health(self) -> EngineHealth:
        """See Engine."""
        batches = self._batches
        if batches is None:
            return EngineHealth(False, detail="not started")
        return EngineHealth(True, running=batches.running, waiting=batches.waiting)

    def metrics(self) -> str:
        """See Engine."""
        batches = self._batches
        running, waiting = (batches.running, batches.waiting) if batches is not None else (0, 0)
        return self._figures.text(running=running, waiting=waiting)

    async def aclose(self) -> None:
        """See Engine."""
        batches, self._batches = self._batches, None
        if batches is not None:
            await asyncio.to_thread(batches.close)
        self._encoder = None
