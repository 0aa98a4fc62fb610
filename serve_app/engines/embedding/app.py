"""An embedding engine as a small ASGI application: POST /v1/embeddings in place of the chat routes of `ReplicaApp`."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from serve_app.engines.app import ReplicaApp
from serve_app.engines.base import Engine
from serve_app.engines.embedding.engine import Embedded, Input
from serve_app.engines.replica_request import JSON, Receive, Send, answering
from serve_app.errors import ModelNotFound, RequestError
from serve_app.types import Endpoint
from serve_app.wire.embeddings import encode_embeddings


class Embedder(Engine, Protocol):
    """An engine that embeds."""

    async def embed(self, inputs: "list[Input]", dimensions: int | None = None) -> Embedded:
        """See EncoderEngine."""


class EmbeddingApp(ReplicaApp):
    """ASGI application over one embedding engine."""

    posts: Mapping[str, Endpoint] = {"/v1/embeddings": "embeddings"}
    _engine: Embedder

    async def _run(self, path: str, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        body = await self._read(receive)
        if body is None:
            return
        inputs, dimensions, plain = self._checked(body)

        async def answer() -> None:
            found = await self._engine.embed(inputs, dimensions)
            said = await asyncio.to_thread(
                encode_embeddings, found.vectors, self._engine.model, found.tokens, found.truncated, plain=plain
            )
            length = (b"content-length", b"%d" % len(said))
            await send({"type": "http.response.start", "status": 200, "headers": [JSON, length]})
            await send({"type": "http.response.body", "body": said})

        await answering(self.admission, receive, answer)

    def _checked(self, body: Mapping[str, Any]) -> tuple[list[Input], int | None, bool]:
        """Inputs, dimensions, and whether vectors are written as numbers. A Gateway has checked the rest."""
        if body.get("model") != self._engine.model:
            raise ModelNotFound(f"this replica runs {self._engine.model!r}, not {body.get('model')!r}", param="model")
        inputs = body.get("input")
        if not isinstance(inputs, list) or not inputs:
            raise RequestError("input must be a non-empty array", param="input")
        return inputs, body.get("dimensions"), body.get("encoding_format") != "base64"
