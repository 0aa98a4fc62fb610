"""Anthropic's Messages API on POST /v1/messages, and the description of its two routes."""

from typing import Any, Final

from starlette.types import ASGIApp

from serve_app.api.dialects.base import Writer
from serve_app.api.dialects.messages import shapes
from serve_app.api.dialects.messages.counting import TokenCounter
from serve_app.api.dialects.messages.errors import MessagesErrors
from serve_app.api.dialects.messages.reading import messages_request, parsed
from serve_app.api.dialects.messages.schemas import CountTokensRequest, MessagesRequest
from serve_app.api.dialects.messages.writer import MessagesWriter
from serve_app.api.openapi import Content, Operation, answers
from serve_app.api.query import ParsedRequest
from serve_app.config.tree import LimitsConfig
from serve_app.gateway.services import Services

MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = f"{MESSAGES}/count_tokens"
_THINKS: Final = ("enabled", "adaptive", "between_tools")
_ERRORS: Final = (400, 403, 404, 413, 429, 500, 502, 503, 504)


class MessagesDialect(MessagesErrors):
    """Reads requests and makes their writers."""

    endpoint: str = "messages"

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits

    async def read(self, body: dict[str, Any], tenant: str | None) -> tuple[ParsedRequest, Writer]:
        """See Dialect."""
        request, query = messages_request(body, self._limits, tenant)
        thinking = request.thinking
        shown = thinking is not None and thinking.type in _THINKS and thinking.display != "omitted"
        return parsed(request, query), MessagesWriter(thinking=shown, stops=query.sampling.stop)


def messages_operations(services: Services, answering: ASGIApp) -> list[Operation]:
    """Both; `answering` runs POST /v1/messages."""
    answered: dict[int, tuple[Content, ...]] = {
        200: (Content(shapes.MESSAGE), Content(shapes.EVENTS, media_type="text/event-stream"))
    }
    said, counted = "Answer a conversation, in Anthropic's format.", "Count the tokens of a conversation."
    count = TokenCounter(services)
    return [
        Operation(
            *("POST", MESSAGES, "messages", said, answering, answered, _ERRORS, MessagesRequest),
            placed=True,
            error="MessagesError",
        ),
        Operation(
            *("POST", COUNT_TOKENS, "count_tokens", counted, count.count, answers(shapes.TOKENS), _ERRORS),
            CountTokensRequest,
            placed=True,
            error="MessagesError",
        ),
    ]
