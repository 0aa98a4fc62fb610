"""The two routes, described."""

from typing import Final

from starlette.types import ASGIApp

from serve_app.api.dialects.messages import shapes
from serve_app.api.dialects.messages.counting import TokenCounter
from serve_app.api.dialects.messages.dialect import COUNT_TOKENS, MESSAGES
from serve_app.api.dialects.messages.schemas import CountTokensRequest, MessagesRequest
from serve_app.api.openapi import Content, Operation, answers
from serve_app.gateway.services import Services

_ERRORS: Final = (400, 403, 404, 413, 429, 500, 502, 503, 504)


def messages_operations(services: Services, answering: ASGIApp) -> list[Operation]:
    """Both; `answering` runs POST /v1/messages."""
    answered = {200: (Content(shapes.MESSAGE), Content(shapes.EVENTS, media_type="text/event-stream"))}
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
