"""Anthropic's Messages API on POST /v1/messages."""

from typing import Any, Final

from serve_app.api.dialects.base import Writer
from serve_app.api.dialects.messages.errors import MessagesErrors
from serve_app.api.dialects.messages.reading import messages_request, parsed
from serve_app.api.dialects.messages.writer import MessagesWriter
from serve_app.api.query import ParsedRequest
from serve_app.config.tree import LimitsConfig

MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = f"{MESSAGES}/count_tokens"
_THINKS: Final = ("enabled", "adaptive", "between_tools")


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
