"""One request of embeddings to a replica, and its answer; what an engine that embeds offers for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.admission import Admission
from serve_app.engines.replica_request import JSON, Receive, Send, answering
from serve_app.errors import ModelNotFound, RequestError
from serve_app.wire.embeddings import encode_embeddings

Vectors = NDArray[np.float32]
Input = str | Sequence[int]
"""A text, or the token ids of one."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors [inputs, dimensions], the tokens that were read for them, and how many inputs were cut to the window."""

    vectors: Vectors
    tokens: int
    truncated: int


class Embedder(Protocol):
    """An engine that embeds."""

    model: str

    async def embed(self, inputs: Sequence[Input], dimensions: int | None = None) -> Embedded:
        """A unit vector for each input. Many calls run at once and share passes."""


class EmbeddingExchange:
    """Embeds the inputs of one body. Raises JethroError or the engine's error, only before the first byte."""

    def __init__(self, engine: Embedder, admission: Admission, body: Mapping[str, Any]) -> None:
        self._engine, self._admission = engine, admission
        if body.get("model") != engine.model:
            raise ModelNotFound(f"this replica runs {engine.model!r}, not {body.get('model')!r}", param="model")
        inputs = body.get("input")
        if not isinstance(inputs, list) or not inputs:
            raise RequestError("input must be a non-empty array", param="input")
        self._inputs: list[Input] = inputs
        self._dimensions: int | None = body.get("dimensions")
        self._plain = body.get("encoding_format") != "base64"

    async def run(self, receive: Receive, send: Send) -> None:
        """Answers; returns silently when the caller disconnects."""

        async def answer() -> None:
            found = await self._engine.embed(self._inputs, self._dimensions)
            model, plain = self._engine.model, self._plain
            body = await asyncio.to_thread(
                encode_embeddings, found.vectors, model, found.tokens, found.truncated, plain=plain
            )
            headers = [JSON, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        await answering(self._admission, receive, answer)
