"""OpenAI's Responses API on POST /v1/responses."""

from functools import partial
from typing import Any, Final

import orjson

from serve_app.api.dialects.base import Writer
from serve_app.api.dialects.openai import OpenAIErrors
from serve_app.api.dialects.responses.conversation import in_own_words
from serve_app.api.dialects.responses.keeping import Keeper
from serve_app.api.dialects.responses.reading import checked, read
from serve_app.api.dialects.responses.writer import ResponsesWriter
from serve_app.api.query import ParsedRequest
from serve_app.config.tree import LimitsConfig
from serve_app.errors import JethroError, RequestError

RESPONSES: Final = "/v1/responses"


class ResponsesErrors(OpenAIErrors):
    """OpenAI's error object, with the parameters' names of this API."""

    def refusal(self, error: JethroError) -> bytes:
        """See Refusals."""
        return orjson.dumps((in_own_words(error) if isinstance(error, RequestError) else error).body())


class ResponsesDialect(ResponsesErrors):
    """Reads requests and makes their writers."""

    endpoint: str = "responses"

    def __init__(self, limits: LimitsConfig, keeper: Keeper) -> None:
        self._limits, self._keeper = limits, keeper

    async def read(self, body: dict[str, Any], tenant: str | None) -> tuple[ParsedRequest, Writer]:
        """See Dialect."""
        request, find = checked(body), partial(self._keeper.find, tenant=tenant)
        earlier = await self._keeper.earlier(request.previous_response_id, tenant, self._limits.body_bytes)
        found = await read(body, request, earlier, find, self._limits, tenant)
        return found.parsed, ResponsesWriter(found, self._keeper)
