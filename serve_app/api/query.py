"""From a caller's JSON to a Query, with the operator's limits checked: n, stop, tokens, messages, tools.

Pydantic's errors become OpenAI's: one sentence, the path of the parameter, a code. Parameters that few engines know are
read by dialects/fields.py, and what clients repeat of earlier answers by dialects/history.py.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serve_app.api.dialects.content import Part
from serve_app.api.dialects.fields import NAMES as FURTHER
from serve_app.api.dialects.fields import FieldRules, further, take_unknown
from serve_app.api.dialects.history import EchoedHistory, Kept
from serve_app.api.dialects.images import checked_images
from serve_app.api.schemas import ChatRequest, CompletionRequest, TextFormat, ToolChoice
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.placement.policy import STRICTEST
from serve_app.types import PROMPT_IDS, Message, Privacy, Query, Sampling
from serve_app.wire.requests import stated

_MEDIA = ("image_url", "input_audio", "file", "video_url", "input_image", "input_file")
_HOW = {
    "image_url": "only users' and tools' messages may have images.",
    "input_image": "write an image as a part of type image_url.",
}
_CODES = {
    "missing": "missing_required_parameter",
    "union_tag_not_found": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
}


def refused(error: ValidationError, body: Any, model: type[BaseModel]) -> RequestError:
    """The caller's error for the first of the faults that `model` found in `body`.

    A part that is not text comes first, then the fault deepest in the body, and an unknown key before a missing one
    (`Model` for `model`).
    """
    found = [(_path(e, body), e) for e in error.errors(include_url=False)]
    path, worst = max(found, key=_weight)
    param = ".".join(str(p) for p in path)[:200] or None
    kind = worst["type"]
    if _is_media(path, worst):
        media = _media_of(worst)
        how = _HOW.get(media, "these models read text and images only.")
        return UnsupportedParameter(f"{param}: {media} parts are not supported here: {how}", param=param)
    if kind == "extra_forbidden":
        return RequestError(_unknown(param, str(path[-1]), model), param=param, code=_CODES[kind])
    return RequestError(_sentence(param, worst), param=param, code=_CODES.get(kind, "invalid_value"))


def _weight(found: tuple[tuple[str | int, ...], ErrorDetails]) -> tuple[bool, int, bool]:
    path, error = found
    return _is_media(path, error), len(path), error["type"] == "extra_forbidden"


def _is_media(path: tuple[str | int, ...], error: ErrorDetails) -> bool:
    return path[-1:] == ("type",) and _media_of(error) in _MEDIA


def _media_of(error: ErrorDetails) -> str:
    """The type of part that was refused, if that is what the error says."""
    if error["type"] == "union_tag_invalid":
        return str(error["ctx"]["tag"])
    return str(error["input"]) if error["type"] == "literal_error" else ""


def _path(error: ErrorDetails, body: Any) -> tuple[str | int, ...]:
    """The error's path in the body, without the names of union members that Pydantic inserts."""
    at: Any = body
    path: list[str | int] = []
    for step in error["loc"]:
        if _holds(at, step):
            at = at[step]
            path.append(step)
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    elif error["type"].startswith("union_tag"):
        path.append(str(error["ctx"]["discriminator"]).strip("'"))
    return tuple(path)


def _holds(at: Any, step: str | int) -> bool:
    if isinstance(at, dict):
        return step in at
    return isinstance(at, list) and isinstance(step, int) and step < len(at)


def _unknown(param: str | None, name: str, model: type[BaseModel]) -> str:
    known = [*model.model_fields, "role", "content", *(FURTHER if model in _KNOWN else ())]
    near = difflib.get_close_matches(name[:64].lower(), known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"Unknown parameter: {param}.{hint}"


def _sentence(param: str | None, error: ErrorDetails) -> str:
    if error["type"] in ("missing", "union_tag_not_found"):
        return f"Missing required parameter: {param}."
    if error["type"] == "union_tag_invalid":
        return f"{param}: {_short(error['ctx']['tag'])} is not one of {error['ctx']['expected_tags']}."
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if message != error["msg"] and error["msg"].startswith("Input"):
        return f"{param}: must be {message}, got {_short(error['input'])}."
    return f"{param}: {message}."


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


PRIVACY_HEADER: Final = "x-jethro-privacy"
_CLASSES: Final[Mapping[bytes, Privacy]] = {b"local": "local", b"private": "private", b"any": "any"}


def requested_class(headers: Iterable[tuple[bytes, bytes]]) -> Privacy | None:
    """The privacy class of x-jethro-privacy, the strictest if it is given twice; None without.

    Raises RequestError for another value: a misspelt class must not mean the widest one.
    """
    found: list[Privacy] = []
    for name, value in headers:
        if name == b"x-jethro-privacy":
            given = _CLASSES.get(value.strip().lower())
            if given is None:
                raise RequestError(
                    f"{PRIVACY_HEADER}: use local, private or any.", param=PRIVACY_HEADER, code="invalid_value"
                )
            found.append(given)
    return min(found, key=STRICTEST.index, default=None)


TASK_HEADER: Final = b"x-jethro-task"
_TASK: Final = re.compile(rb"[a-z0-9][a-z0-9_-]{0,47}")


def hinted(query: Query, headers: Iterable[tuple[bytes, bytes]]) -> Query:
    """The query with the task of x-jethro-task; the same query without. Raises RequestError for what is no name."""
    given = next((value.strip() for name, value in headers if name == TASK_HEADER), None)
    if given is None:
        return query
    if _TASK.fullmatch(given) is None:
        header = TASK_HEADER.decode()
        raise RequestError(f"{header}: give the name of a task in the table.", param=header, code="invalid_value")
    return replace(query, task=given.decode())


_RETRY_HEADER: Final = b"x-stainless-retry-count"
_MOST_RETRIES: Final = 99


def retries(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """How often the client sent this request before, as the SDKs count it; at most 99, 0 for what is no number."""
    given = next((value for name, value in headers if name == _RETRY_HEADER), b"0")
    return min(int(given), _MOST_RETRIES) if len(given) <= 9 and given.isdigit() else 0


M = TypeVar("M", bound=Part)
_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions; chat has none."""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A checked request: the query, the model, and how to send the answer."""

    model: str
    query: Query
    stream: bool
    include_usage: bool


_RULES: Final = FieldRules()
_KNOWN: Final = {model: frozenset(model.model_fields) for model in (ChatRequest, CompletionRequest)}
_ELSEWHERE: Final = frozenset().union(*_KNOWN.values(), ("adapter", "task", "input", "instructions", "system"))
"""Parameters of other routes, or of our own replicas."""


def chat_request(
    body: dict[str, Any], limits: LimitsConfig, tenant: str | None, rules: FieldRules = _RULES
) -> ParsedRequest:
    """A body of /v1/chat/completions. Raises RequestError naming the parameter."""
    plain = rules.unknown == "reject" and FURTHER.isdisjoint(body)
    extra = {} if plain else _further(body, "chat", ChatRequest, rules)
    kept: Kept | None = None
    try:
        r = ChatRequest.model_validate(body)
    except ValidationError as e:
        r, kept = _again(body, e, rules)
    if len(r.messages) > limits.messages:
        raise _too_many(len(r.messages), limits.messages, "messages", "messages")
    _check_tools(r, limits)
    if r.top_logprobs and not r.logprobs:
        raise _invalid("top_logprobs", "needs logprobs to be true.")
    sampling = _sampling(r, limits, _max_tokens(r), bool(r.logprobs), r.top_logprobs or 0)
    if extra:
        _check_shortest(extra, sampling)
    tools = tuple(t.model_dump(exclude_none=True) for t in r.tools) if r.tools else ()
    choice = r.tool_choice.model_dump() if isinstance(r.tool_choice, ToolChoice) else r.tool_choice
    if r.structured_outputs is not None:
        extra |= _structured(r)
    if r.parallel_tool_calls is False and tools:
        extra["parallel_tool_calls"] = False
    guided = r.response_format is not None and not isinstance(r.response_format, TextFormat)
    messages = tuple([turn.message() for turn in r.messages])
    if any([message.parts for message in messages]):
        messages = checked_images(messages, limits)
    if kept:
        messages, tools = kept.into(messages), kept.into_tools(tools)
    query = Query(
        messages=messages,
        sampling=sampling,
        tools=tools,
        tool_choice=choice,
        response_format=r.response_format.model_dump(by_alias=True, exclude_none=True) if guided else None,  # type: ignore[union-attr]
        user=r.user if r.user is not None else r.safety_identifier,
        safety_identifier=r.safety_identifier,
        metadata=r.metadata or {},
        tenant=tenant,
        extra=extra,
        echoes=kept is not None and bool(kept),
    )
    return _parsed(r, query)


def _again(body: dict[str, Any], error: ValidationError, rules: FieldRules) -> tuple[ChatRequest, Kept]:
    """A refused body without what is no input in its messages and tools. Raises RequestError naming the parameter."""
    history = EchoedHistory(rules)
    tidied = history.tidied(body)
    if not history.changed:
        raise refused(error, body, ChatRequest)
    return check(ChatRequest, tidied), history.kept


def _further(
    body: dict[str, Any],
    endpoint: Literal["chat", "completions"],
    model: type[ChatRequest] | type[CompletionRequest],
    rules: FieldRules,
) -> dict[str, Any]:
    """What `body` requests beyond `model`, which is taken out of it."""
    extra = further(body, endpoint, check)
    if rules.unknown != "reject":
        extra |= take_unknown(body, _KNOWN[model], _ELSEWHERE, rules)
    return extra


def completion_request(
    body: dict[str, Any], limits: LimitsConfig, tenant: str | None, rules: FieldRules = _RULES
) -> ParsedRequest:
    """A body of /v1/completions. Raises RequestError naming the parameter."""
    extra = _further(body, "completions", CompletionRequest, rules)
    if body.get("stop") == "":
        del body["stop"]
    r = check(CompletionRequest, body)
    prompts = _prompts(r.prompt)
    if len(prompts) > limits.prompts:
        raise _too_many(len(prompts), limits.prompts, "prompt", "prompts")
    max_tokens = r.max_tokens if r.max_tokens is not None else min(_COMPLETION_TOKENS, limits.max_tokens)
    sampling = _sampling(r, limits, max_tokens, r.logprobs is not None, r.logprobs or 0)
    if extra:
        _check_shortest(extra, sampling)
    query = Query(
        prompts,
        sampling,
        endpoint="completions",
        user=r.user,
        tenant=tenant,
        extra=extra | _structured(r),
    )
    return _parsed(r, query)


def _structured(r: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """vLLM's `structured_outputs` as the engines take it: with its one key."""
    if r.structured_outputs is None:
        return {}
    return {"structured_outputs": r.structured_outputs.model_dump(by_alias=True, exclude_unset=True)}


def check(model: type[M], body: dict[str, Any]) -> M:
    """`body` as a `model`. Raises RequestError naming the parameter."""
    try:
        return model.model_validate(body)
    except ValidationError as e:
        raise refused(e, body, model) from None


def _parsed(r: ChatRequest | CompletionRequest, query: Query) -> ParsedRequest:
    if r.stream_options is not None and not r.stream:
        raise _invalid("stream_options", "only allowed with stream set to true.")
    include_usage = r.stream_options is not None and bool(r.stream_options.include_usage)
    return ParsedRequest(r.model, query, bool(r.stream), include_usage)


def _sampling(
    r: ChatRequest | CompletionRequest, limits: LimitsConfig, max_tokens: int | None, logprobs: bool, top: int
) -> Sampling:
    stop = () if r.stop is None else (r.stop,) if isinstance(r.stop, str) else tuple(r.stop)
    n = 1 if r.n is None else r.n
    if n > limits.n:
        raise _too_many(n, limits.n, "n", "choices")
    if max_tokens is not None and max_tokens > limits.max_tokens:
        raise _too_many(max_tokens, limits.max_tokens, "max_tokens", "tokens")
    if len(stop) > limits.stop:
        raise _too_many(len(stop), limits.stop, "stop", "sequences")
    for sequence in stop:
        if len(sequence) > limits.stop_chars:
            raise _too_many(len(sequence), limits.stop_chars, "stop", "characters in a sequence")
    if top > limits.top_logprobs:
        param = "top_logprobs" if r.__class__ is ChatRequest else "logprobs"
        raise _too_many(top, limits.top_logprobs, param, "alternatives")
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
        max_tokens_key="max_completion_tokens" if getattr(r, "max_completion_tokens", None) else "max_tokens",
        stated=stated(r.temperature, r.top_p),
    )


def _check_shortest(extra: Mapping[str, Any], sampling: Sampling) -> None:
    """An answer cannot have more tokens than its longest."""
    least, most = extra.get("min_tokens"), sampling.max_tokens
    if least is not None and most is not None and least > most:
        raise _invalid("min_tokens", f"{least} is more than the {most} that the answer may have.")


def _max_tokens(r: ChatRequest) -> int | None:
    old, new = r.max_tokens, r.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise RequestError(
            f"max_tokens ({old}) and max_completion_tokens ({new}) differ: set one of them.",
            param="max_tokens",
            code="invalid_value",
        )
    return new if new is not None else old


def _check_tools(r: ChatRequest, limits: LimitsConfig) -> None:
    tools = r.tools or []
    if not tools and r.tool_choice in (None, "none", "auto"):
        return
    if len(tools) > limits.tools:
        raise _too_many(len(tools), limits.tools, "tools", "tools")
    names = [t.function.name for t in tools]
    if len(set(names)) < len(names):
        raise _invalid("tools", "two functions have the same name.")
    if not tools:
        raise _invalid("tool_choice", "only allowed with tools.")
    if isinstance(r.tool_choice, ToolChoice) and r.tool_choice.function.name not in names:
        name = r.tool_choice.function.name
        raise _invalid("tool_choice", f"{name} is not among the tools.")


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> tuple[Message, ...]:
    """Each prompt as a message; token ids stay what they are."""
    if isinstance(given, str) or isinstance(given[0], int):
        given = [given]  # type: ignore[assignment]
    return tuple(Message("user", p) if isinstance(p, str) else Message("user", "", {PROMPT_IDS: p}) for p in given)


def _too_many(value: int, limit: int, param: str, what: str) -> RequestError:
    return _invalid(param, f"at most {limit} {what}, got {value}.")


def _invalid(param: str, why: str) -> RequestError:
    return RequestError(f"{param}: {why}", param=param, code="invalid_value")
