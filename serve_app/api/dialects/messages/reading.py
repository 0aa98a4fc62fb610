"""From a body of /v1/messages to the Query that the same request to chat has.

Consecutive turns of one role are one turn, as in Anthropic's API. What tools answered comes first in the user's turn,
as OpenAI's wire format has it directly behind the calls. Reasoning that is sent back is left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Final

import orjson

from serve_app.api.dialects.images import ImageReader
from serve_app.api.dialects.messages.schemas import (
    AnyChoice,
    CountTokensRequest,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    MessagesTool,
    NamedChoice,
    SaidTextBlock,
    SearchResultBlock,
    TextBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from serve_app.api.query import ParsedRequest, check
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.images import TextOrImage
from serve_app.types import Message, Query, Sampling
from serve_app.wire.requests import stated

HINTS: Final = frozenset(
    {
        *("cache_control", "compaction", "context_management", "diagnostics", "service_tier", "speed"),
        *("billing_policy", "fallback_credit_token", "fallbacks", "user_profile_id"),
    }
)
"""Fields of the body that are accepted and change nothing here: they ask for what an answer does without."""
_UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "container": (None,),
    "inference_geo": (None,),
    "mcp_servers": (None, []),
    "thread": (None,),
}
"""By field: the values that request nothing. Any other is refused."""
_BILLING: Final = "x-anthropic-billing-header:"
"""What a system text of command-line agents begins with that is no instruction, and differs in every request."""
_FAILED: Final = "The tool reported an error"


def messages_request(body: dict[str, Any], limits: LimitsConfig, tenant: str | None) -> tuple[MessagesRequest, Query]:
    """A body of /v1/messages, changed on the way, and its Query. Raises RequestError naming the parameter."""
    _sift(body)
    request = check(MessagesRequest, body)
    return request, _query(request, _sampling(request, limits), limits, tenant)


def counted_request(body: dict[str, Any], limits: LimitsConfig, tenant: str | None) -> tuple[CountTokensRequest, Query]:
    """The same of a body of /v1/messages/count_tokens."""
    _sift(body)
    request = check(CountTokensRequest, body)
    return request, _query(request, Sampling(), limits, tenant)


def parsed(request: MessagesRequest, query: Query) -> ParsedRequest:
    """As the hot handler takes it."""
    return ParsedRequest(request.model, query, bool(request.stream), include_usage=True)


def _sift(body: dict[str, Any]) -> None:
    """Remove what changes nothing. Raises UnsupportedParameter for what Anthropic's own machines would do."""
    for name in HINTS & body.keys():
        del body[name]
    for name in _UNSUPPORTED.keys() & body.keys():
        if body.pop(name) not in _UNSUPPORTED[name]:
            raise UnsupportedParameter(f"{name} is not supported here: leave it out.", param=name)
    tools = body.get("tools")
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "custom":
            raise UnsupportedParameter(
                f"tools.{i}: {kind[:64]} is one of Anthropic's own tools, which this endpoint does not have: leave it "
                "out, or define a tool with a name and an input_schema, which you run.",
                param=f"tools.{i}.type",
            )


def _query(request: CountTokensRequest, sampling: Sampling, limits: LimitsConfig, tenant: str | None) -> Query:
    if len(request.messages) > limits.messages:
        raise _too_many(len(request.messages), limits.messages, "messages", "messages")
    tools = request.tools or []
    choice = _choice(request, tools, limits)
    metadata = getattr(request, "metadata", None)
    top_k = getattr(request, "top_k", None)
    extra: dict[str, Any] = {}
    if tools and getattr(request.tool_choice, "disable_parallel_tool_use", None):
        extra["parallel_tool_calls"] = False
    if top_k is not None and top_k > 0:
        extra["top_k"] = top_k
    return Query(
        messages=tuple([*_system(request.system), *_conversation(request, limits)]),
        sampling=sampling,
        tools=tuple(map(_tool, tools)),
        tool_choice=choice,
        response_format=_format(request),
        user=None if metadata is None else metadata.user_id,
        tenant=tenant,
        extra=extra,
    )


def _sampling(request: MessagesRequest, limits: LimitsConfig) -> Sampling:
    stop = request.stop_sequences or []
    if len(stop) > limits.stop:
        raise _too_many(len(stop), limits.stop, "stop_sequences", "sequences")
    for sequence in stop:
        if len(sequence) > limits.stop_chars:
            raise _too_many(len(sequence), limits.stop_chars, "stop_sequences", "characters in a sequence")
    return Sampling(
        max_tokens=min(request.max_tokens, limits.max_tokens),  # Anthropic's clients always set one, often a high one
        temperature=1.0 if request.temperature is None else float(request.temperature),
        top_p=1.0 if request.top_p is None else float(request.top_p),
        stop=tuple(stop),
        stated=stated(request.temperature, request.top_p),
    )


def _choice(
    request: CountTokensRequest, tools: list[MessagesTool], limits: LimitsConfig
) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    if not tools:
        if isinstance(choice, AnyChoice | NamedChoice):
            raise _invalid("tool_choice", "only allowed with tools.")
        return None
    if len(tools) > limits.tools:
        raise _too_many(len(tools), limits.tools, "tools", "tools")
    names = {tool.name for tool in tools}
    if len(names) < len(tools):
        raise _invalid("tools", "two tools have the same name.")
    if choice is None:
        return None
    if isinstance(choice, NamedChoice):
        if choice.name not in names:
            raise _invalid("tool_choice", f"{choice.name} is not among the tools.")
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if isinstance(choice, AnyChoice) else choice.type


def _tool(tool: MessagesTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _format(request: CountTokensRequest) -> dict[str, Any] | None:
    config = request.output_config
    form = (config.format if config is not None else None) or request.output_format
    if form is None:
        return None
    schema = {"name": "answer", "schema": form.schema_, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _system(system: str | list[TextBlock] | None) -> Iterator[Message]:
    if system:
        texts = [system] if isinstance(system, str) else [block.text for block in system]
        said = _joined(text for text in texts if not text.startswith(_BILLING))
        if said:
            yield Message("system", said)


def _conversation(request: CountTokensRequest, limits: LimitsConfig) -> Iterator[Message]:
    """The turns, consecutive ones of a role as one."""
    parts = _Parts(ImageReader(limits))
    numbered = [(turn.role, _blocks(turn.content, f"messages.{i}.content")) for i, turn in enumerate(request.messages)]
    for role, turns in groupby(numbered, key=lambda turn: turn[0]):
        blocks = [block for _, found in turns for block in found]
        if role == "user":
            yield from _user(blocks, parts)
        elif role == "assistant":
            yield _assistant(block for _, block in blocks)
        else:
            yield Message("system", _joined(block.text for _, block in blocks))


def _blocks(content: str | list[Any], param: str) -> list[tuple[str, Any]]:
    """The blocks of a turn, each with its path."""
    if isinstance(content, str):
        return [(param, TextBlock(type="text", text=content))]
    return [(f"{param}.{i}", block) for i, block in enumerate(content)]


def _user(blocks: list[tuple[str, Any]], parts: "_Parts") -> Iterator[Message]:
    others = []
    for param, block in blocks:
        if isinstance(block, ToolResultBlock):
            yield Message.of("tool", _result(block, param, parts), {"tool_call_id": block.tool_use_id})
        else:
            others.append((param, block))
    if others or not blocks:
        yield Message.of("user", parts.of(others))


def _result(result: ToolResultBlock, param: str, parts: "_Parts") -> list[TextOrImage]:
    """What a tool answered; that it failed is said in words, for which OpenAI's wire format has no field."""
    said = parts.of(_blocks(result.content or "", f"{param}.content"))
    if not result.is_error:
        return said
    return [f"{_FAILED}:", *said] if said else [f"{_FAILED}."]


def _assistant(blocks: Iterable[Any]) -> Message:
    texts, calls = [], []
    for block in blocks:
        if isinstance(block, TextBlock | SaidTextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": orjson.dumps(block.input).decode()}
            calls.append({"id": block.id, "type": "function", "function": function})
    return Message("assistant", _joined(texts), {"tool_calls": calls} if calls else {})


class _Parts:
    """Blocks of a user's turn, or of a tool's result, as the texts and images that chat has."""

    def __init__(self, images: ImageReader) -> None:
        self._images = images

    def of(self, blocks: Iterable[tuple[str, Any]]) -> list[TextOrImage]:
        """The parts of blocks, each with its path; empty texts are left out. Raises RequestError for an image."""
        return [part for param, block in blocks if (part := self._part(block, param))]

    def _part(self, block: Any, param: str) -> TextOrImage:
        if isinstance(block, TextBlock):
            return block.text
        if isinstance(block, ImageBlock):
            source, at = block.source, f"{param}.source"
            if source.type == "base64":
                return self._images.of_bytes(source.media_type, source.data, at)
            return self._images.read(source.url, None, at)
        return _text(block)


def _text(block: DocumentBlock | SearchResultBlock | ToolReferenceBlock) -> str:
    """A block that chat has as text."""
    if isinstance(block, DocumentBlock):
        source = block.source
        content = source.data if source.type == "text" else source.content
        inner = content if isinstance(content, str) else _joined(piece.text for piece in content)
        return _joined(part for part in (block.title, block.context, inner) if part)
    if isinstance(block, SearchResultBlock):
        return _joined([block.title, block.source, *(piece.text for piece in block.content)])
    return f"Tool: {block.tool_name}"


def _joined(texts: Iterable[str]) -> str:
    """Texts as lines, as chat joins its parts; empty ones are left out."""
    return "\n".join([text for text in texts if text])


def _too_many(value: int, limit: int, param: str, what: str) -> RequestError:
    return _invalid(param, f"at most {limit} {what}, got {value}.")


def _invalid(param: str, why: str) -> RequestError:
    return RequestError(f"{param}: {why}", param=param, code="invalid_value")
