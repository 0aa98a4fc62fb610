"""OpenAI's embeddings as a dialect of the hot handler, and the route's description."""

from typing import Any, Final

from starlette.types import ASGIApp

from serve_app.api import shapes
from serve_app.api.completions import CompletionHandler
from serve_app.api.dialects.base import Writer
from serve_app.api.dialects.openai import OpenAIErrors, OpenAIWriter
from serve_app.api.embeddings.schemas import EmbeddingRequest
from serve_app.api.openapi import Operation, answers
from serve_app.api.query import ParsedRequest, check
from serve_app.errors import UnsupportedParameter
from serve_app.gateway.services import Services
from serve_app.types import Message, Query

PATH: Final = "/v1/embeddings"


class EmbeddingDialect(OpenAIErrors):
    """Reads a body; the answer passes as the pool sent it. `ids`: token ids are accepted."""

    endpoint = "embeddings"

    def __init__(self, *, ids: bool) -> None:
        self._ids = ids

    async def read(self, body: dict[str, Any], tenant: str | None) -> tuple[ParsedRequest, Writer]:
        """See Dialect."""
        request = check(EmbeddingRequest, body)
        given = request.input
        texts: list[str] = [given] if isinstance(given, str) else given if isinstance(given[0], str) else []
        extra: dict[str, Any] = {}
        if not texts:
            if not self._ids:
                raise UnsupportedParameter(
                    "input: token ids cannot be checked by this endpoint's guards and placement: send text.",
                    param="input",
                )
            extra["input"] = given if isinstance(given[0], list) else [given]
        if request.encoding_format == "base64":
            extra["encoding_format"] = "base64"
        if request.dimensions is not None:
            extra["dimensions"] = request.dimensions
        query = Query(
            tuple([Message("user", text) for text in texts or ("",)]),
            endpoint="embeddings",
            user=request.user,
            tenant=tenant,
            extra=extra,
        )
        return ParsedRequest(request.model, query, stream=False, include_usage=False), OpenAIWriter(False)


def embedding_app(services: Services) -> ASGIApp:
    """The ASGI app of the route. Token ids are accepted where no guard reads the text before."""
    read_first = services.reads_text or bool(services.config.placement.redaction.places)
    return CompletionHandler(services, EmbeddingDialect(ids=not read_first))


def embedding_operation(app: ASGIApp, errors: tuple[int, ...]) -> Operation:
    """The route, described."""
    return Operation(
        "POST", PATH, "embeddings", "Embed texts.", app, answers(shapes.EMBEDDINGS), errors, EmbeddingRequest,
        placed=True,
    )  # fmt: skip
