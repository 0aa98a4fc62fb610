"""From a body of /v1/responses to the Query that the same request to chat has, by way of chat's own reader."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from serve_app.api.dialects.responses.conversation import ChatMessages
from serve_app.api.dialects.responses.ids import place_of
from serve_app.api.dialects.responses.items import item_kind
from serve_app.api.dialects.responses.schemas import AllowedTools, NamedTool, ResponsesRequest
from serve_app.api.dialects.responses.unsupported import bracketed, refuse_unsupported
from serve_app.api.query import ParsedRequest, chat_request, check
from serve_app.config.tree import LimitsConfig
from serve_app.errors import NotFound, RequestError
from serve_app.placement.policy import STRICTEST
from serve_app.store.base import KeptResponse
from serve_app.types import Privacy

_HINTS: Final = ("prompt_cache_key", "prompt_cache_retention", "service_tier")
"""They change no answer: passed on to upstreams that take them."""
_SAME: Final = (
    "model",
    "metadata",
    "parallel_tool_calls",
    "safety_identifier",
    "stream",
    "temperature",
    "top_p",
    "user",
)
"""Fields that chat has under the same name."""

Find = Callable[[str], Awaitable[KeptResponse]]
"""A kept response of the caller's own by its id. Raises NotFound."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A checked body. `items` is its own input, each item with an id; `query` has that of the earlier ones as well."""

    parsed: ParsedRequest
    request: ResponsesRequest
    given: dict[str, Any]
    items: list[dict[str, Any]]


def checked(body: dict[str, Any]) -> ResponsesRequest:
    """The body as its model. Raises RequestError that names the parameter in OpenAI's way."""
    refuse_unsupported(body)
    try:
        request = check(ResponsesRequest, body)
    except RequestError as error:
        raise bracketed(error) from None
    if request.stream_options is not None and not request.stream:
        raise _invalid("stream_options", "only allowed with stream set to true.")
    return request


async def read(
    body: dict[str, Any],
    request: ResponsesRequest,
    earlier: Sequence[KeptResponse],
    find: Find,
    limits: LimitsConfig,
    tenant: str | None,
) -> ReadRequest:
    """The request that continues `earlier`. Raises RequestError, NotFound for an item that is not kept."""
    conversation, classes = ChatMessages(), [response.privacy for response in earlier]
    known: dict[str, KeptResponse] = {}

    async def once(response_id: str) -> KeptResponse:
        if response_id not in known:
            known[response_id] = await find(response_id)
        return known[response_id]

    if request.instructions is not None:
        conversation.instruct(request.instructions)
    for response in earlier:
        conversation.kept(orjson.loads(response.input))
        conversation.kept(orjson.loads(response.body)["output"])
    items = _own_items(body["input"])
    if isinstance(body["input"], str):
        conversation.say(body["input"])
    else:
        for i, item in enumerate(items):
            if item_kind(item) == "item_reference":
                items[i], privacy = await _resolved(item["id"], once, f"input[{i}]")
                classes.append(privacy)
            conversation.item(items[i], f"input[{i}]")
    try:
        parsed = chat_request(_chat_body(request, conversation), limits, tenant)
    except RequestError as error:
        raise conversation.placed(error) from None
    strictest = min(classes, key=STRICTEST.index, default=parsed.query.privacy)
    query = replace(parsed.query, privacy=strictest, messages=conversation.with_own_images(parsed.query.messages))
    parsed = replace(parsed, query=query)
    return ReadRequest(parsed, request, body, items)


async def _resolved(item_id: str, find: Find, param: str) -> tuple[dict[str, Any], Privacy]:
    """The item of a kept response that this id names, and the class that it was given or answered under."""
    missing = NotFound(
        f"Item with id '{item_id[:100]}' not found: it is not kept (see `store`), so send the item itself.",
        param=param,
    )
    place = place_of(item_id)
    if place is None:
        raise missing
    try:
        response = await find(place)
    except NotFound:
        raise missing from None
    kept: list[dict[str, Any]] = [*orjson.loads(response.body)["output"], *orjson.loads(response.input)]
    item = next((item for item in kept if item.get("id") == item_id), None)
    if item is None:
        raise missing
    return item, response.privacy


def _own_items(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input as items with a type each; their ids are set when the answer's is known."""
    if isinstance(given, str):
        return [_message("user", [{"type": "input_text", "text": given}])]
    return [{**item, "type": item_kind(item)} for item in given]


def _message(role: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def _chat_body(request: ResponsesRequest, conversation: ChatMessages) -> dict[str, Any]:
    """The body of chat that requests the same."""
    given = {name: getattr(request, name) for name in (*_SAME, *_HINTS)}
    body = {name: value for name, value in given.items() if value is not None}
    if not conversation.messages:
        raise RequestError("input: it holds thoughts alone: give a message.", param="input", code="invalid_value")
    body["messages"] = conversation.messages
    if request.max_output_tokens is not None:
        body["max_completion_tokens"] = request.max_output_tokens
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if request.text is not None:
        body |= _form(request)
    if request.reasoning is not None and request.reasoning.effort is not None:
        body["reasoning_effort"] = request.reasoning.effort
    return body | _tools(request)


def _form(request: ResponsesRequest) -> dict[str, Any]:
    """The form of the text."""
    assert request.text is not None
    found: dict[str, Any] = {}
    if request.text.verbosity is not None:
        found["verbosity"] = request.text.verbosity
    form = request.text.format
    if form is None or form.type == "text":
        return found
    if form.type == "json_object":
        return {**found, "response_format": {"type": "json_object"}}
    schema = form.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {**found, "response_format": {"type": "json_schema", "json_schema": schema}}


def _tools(request: ResponsesRequest) -> dict[str, Any]:
    """The tools and the choice among them: of the allowed ones, where the request names them."""
    tools, choice = request.tools or [], request.tool_choice
    names = {tool.name for tool in tools}
    if isinstance(choice, AllowedTools):
        allowed = {tool.name for tool in choice.tools}
        if unknown := sorted(allowed - names):
            raise _invalid("tool_choice", f"{unknown[0]} is not among the tools.")
        tools = [tool for tool in tools if tool.name in allowed]
    found: dict[str, Any] = {}
    if tools:
        found["tools"] = [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)} for tool in tools
        ]
    if isinstance(choice, AllowedTools):
        found["tool_choice"] = choice.mode
    elif isinstance(choice, NamedTool):
        found["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice is not None:
        found["tool_choice"] = choice
    return found


def _invalid(param: str, why: str) -> RequestError:
    return RequestError(f"{param}: {why}", param=param, code="invalid_value")
