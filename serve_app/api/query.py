"""From a caller's JSON to a Query, with the operator's bounds checked: n, stop, tokens, messages, tools."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from serve_app.api.invalid import refused
from serve_app.api.messages import Part
from serve_app.api.schemas import ChatRequest, CompletionRequest, TextFormat, ToolChoice
from serve_app.api.unsupported import drop_unsupported
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError
from serve_app.types import Message, Query, Sampling

M = TypeVar("M", bound=Part)
_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions; chat has none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request: what is asked of which model, and how the answer is to be sent."""

    model: str
    query: Query
    stream: bool
    include_usage: bool


def chat_request(body: dict[str, Any], limits: LimitsConfig, tenant: str | None) -> Asked:
    """A body of /v1/chat/completions. Raises RequestError naming the parameter."""
    drop_unsupported(body, "chat")
    r = check(ChatRequest, body)
    _at_most(len(r.messages), limits.messages, "messages", "messages")
    _check_tools(r, limits)
    if r.top_logprobs is not None and not r.logprobs:
        raise RequestError("top_logprobs: needs logprobs to be true.", param="top_logprobs", code="invalid_value")
    sampling = _sampling(r, limits, _max_tokens(r), bool(r.logprobs), r.top_logprobs or 0)
    tools = tuple(t.model_dump(exclude_none=True) for t in r.tools) if r.tools else ()
    choice = r.tool_choice.model_dump() if isinstance(r.tool_choice, ToolChoice) else r.tool_choice
    guided = r.response_format is not None and not isinstance(r.response_format, TextFormat)
    query = Query(
        messages=tuple([turn.message() for turn in r.messages]),
        sampling=sampling,
        tools=tools,
        tool_choice=choice,
        response_format=r.response_format.model_dump(by_alias=True, exclude_none=True) if guided else None,  # type: ignore[union-attr]
        user=r.user,
        metadata=r.metadata or {},
        tenant=tenant,
        extra={"parallel_tool_calls": False} if r.parallel_tool_calls is False and tools else {},
    )
    return _asked(r, query)


def completion_request(body: dict[str, Any], limits: LimitsConfig, tenant: str | None) -> Asked:
    """A body of /v1/completions. Raises RequestError naming the parameter."""
    if isinstance(body.get("prompt"), list):
        _one_text_prompt(body["prompt"])
    drop_unsupported(body, "completions")
    r = check(CompletionRequest, body)
    prompt = r.prompt if isinstance(r.prompt, str) else r.prompt[0]
    max_tokens = r.max_tokens if r.max_tokens is not None else min(_COMPLETION_TOKENS, limits.max_tokens)
    sampling = _sampling(r, limits, max_tokens, r.logprobs is not None, r.logprobs or 0)
    query = Query((Message("user", prompt),), sampling, endpoint="completions", user=r.user, tenant=tenant)
    return _asked(r, query)


def check(model: type[M], body: dict[str, Any]) -> M:
    """`body` as a `model`. Raises RequestError naming the parameter."""
    try:
        return model.model_validate(body)
    except ValidationError as e:
        raise refused(e, body, model) from None


def _asked(r: ChatRequest | CompletionRequest, query: Query) -> Asked:
    if r.stream_options is not None and not r.stream:
        raise RequestError(
            "stream_options: only allowed with stream set to true.", param="stream_options", code="invalid_value"
        )
    include_usage = r.stream_options is not None and bool(r.stream_options.include_usage)
    return Asked(r.model, query, bool(r.stream), include_usage)


def _sampling(
    r: ChatRequest | CompletionRequest, limits: LimitsConfig, max_tokens: int | None, logprobs: bool, top: int
) -> Sampling:
    stop = () if r.stop is None else (r.stop,) if isinstance(r.stop, str) else tuple(r.stop)
    n = 1 if r.n is None else r.n
    _at_most(n, limits.n, "n", "choices")
    _at_most(max_tokens or 0, limits.max_tokens, "max_tokens", "tokens")
    _at_most(len(stop), limits.stop, "stop", "sequences")
    for sequence in stop:
        _at_most(len(sequence), limits.stop_chars, "stop", "characters in a sequence")
    _at_most(top, limits.top_logprobs, "top_logprobs" if r.__class__ is ChatRequest else "logprobs", "alternatives")
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if r.temperature is None else float(r.temperature),
        top_p=1.0 if r.top_p is None else float(r.top_p),
        n=n,
        stop=stop,
        seed=r.seed,
        presence_penalty=float(r.presence_penalty or 0),
        frequency_penalty=float(r.frequency_penalty or 0),
        logprobs=logprobs,
        top_logprobs=top,
    )


def _max_tokens(r: ChatRequest) -> int | None:
    old, new = r.max_tokens, r.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise RequestError(
            f"max_tokens ({old}) and max_completion_tokens ({new}) differ: give one of them.",
            param="max_tokens",
            code="invalid_value",
        )
    return new if new is not None else old


def _check_tools(r: ChatRequest, limits: LimitsConfig) -> None:
    tools = r.tools or []
    if not tools and r.tool_choice in (None, "none", "auto"):
        return
    _at_most(len(tools), limits.tools, "tools", "tools")
    names = [t.function.name for t in tools]
    if len(set(names)) < len(names):
        raise RequestError("tools: two functions have the same name.", param="tools", code="invalid_value")
    if not tools:
        raise RequestError("tool_choice: only allowed with tools.", param="tool_choice", code="invalid_value")
    if isinstance(r.tool_choice, ToolChoice) and r.tool_choice.function.name not in names:
        name = r.tool_choice.function.name
        raise RequestError(f"tool_choice: {name} is not among the tools.", param="tool_choice", code="invalid_value")


def _one_text_prompt(prompt: list[Any]) -> None:
    if prompt and all(type(p) in (int, list) for p in prompt):
        raise RequestError("prompt: token ids are not supported, send text.", param="prompt", code="invalid_value")
    if len(prompt) > 1:
        raise RequestError(
            "prompt: one prompt a request; send the others in requests of their own.",
            param="prompt",
            code="invalid_value",
        )


def _at_most(value: int, limit: int, param: str, what: str) -> None:
    if value > limit:
        raise RequestError(f"{param}: at most {limit} {what}, got {value}.", param=param, code="invalid_value")
