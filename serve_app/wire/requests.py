"""A Query as OpenAI's request body and back, between a Gateway and a pool replica.

`tenant` and `metadata` stay with the Gateway; `adapter` travels as a key of that name; `extra` travels as keys of its
own. This module checks types only; the API checks limits.
"""

from collections.abc import Mapping
from hashlib import blake2b
from itertools import count
from typing import Any, Final, Literal, cast

import orjson

from serve_app.errors import RequestError, UnsupportedParameter, UpstreamError
from serve_app.images import Image, TextOrImage
from serve_app.types import PROMPT_IDS, Endpoint, Message, Query, Role, Sampling
from serve_app.wire.honoured import cached

COUNT_PATH: Final = "/count_tokens"
"""Below a replica's /v1: takes chat's body, and returns how many tokens its prompt has; see `count_body`."""
_COUNTED: Final = "prompt_tokens"
_DEFAULTS = Sampling()
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_LENGTH_KEYS = frozenset(("max_tokens", "max_completion_tokens", "n", "stop"))
_CHANCE_KEYS = frozenset(("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"))
_SAMPLING_KEYS = _LENGTH_KEYS | _CHANCE_KEYS | {"logprobs", "top_logprobs"}
_QUERY_KEYS = frozenset(("tools", "tool_choice", "response_format", "user", "adapter"))
_OTHER_KEYS = frozenset(("model", "messages", "prompt", "stream", "stream_options", "metadata"))
_KNOWN_KEYS = _SAMPLING_KEYS | _QUERY_KEYS | _OTHER_KEYS
_NUMBER = (int, float)


def query_to_openai(query: Query, *, model: str, stream: bool) -> dict[str, Any]:
    """The request body for `model`; a stream requests the usage chunk. Defaults are left out."""
    body: dict[str, Any] = {"model": model}
    if query.endpoint == "chat":
        messages = [m.to_openai() for m in query.messages]
        body["messages"] = list(map(cached, messages)) if query.echoes else messages
    elif query.endpoint == "embeddings":
        body["input"] = [m.content for m in query.messages]
    else:
        body["prompt"] = list(query.prompt_ids) or query.prompt
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    _write_sampling(body, query)
    if query.tools:
        body["tools"] = list(query.tools)
    for key in ("tool_choice", "response_format", "user", "adapter"):
        if (value := getattr(query, key)) is not None:
            body[key] = value
    if query.extra:
        body.update(query.extra)
    return body


def query_from_openai(body: Mapping[str, Any], endpoint: Endpoint) -> Query:
    """The Query of a request body; keys that OpenAI's API does not name land in `extra`.

    Raises RequestError that names the field on a missing or wrongly typed one.
    """
    return Query(
        messages=_messages(body) if endpoint == "chat" else _prompt(body),
        sampling=_sampling(body, endpoint),
        endpoint=endpoint,
        tools=tuple(_typed(body, "tools", list, "an array") or ()),
        tool_choice=_typed(body, "tool_choice", (str, dict), "a string or an object"),
        response_format=_typed(body, "response_format", dict, "an object"),
        user=_typed(body, "user", str, "a string"),
        adapter=_typed(body, "adapter", str, "a string"),
        extra={} if body.keys() <= _KNOWN_KEYS else {k: v for k, v in body.items() if k not in _KNOWN_KEYS},
    )


def _write_sampling(body: dict[str, Any], query: Query) -> None:
    sampling = query.sampling
    if sampling == _DEFAULTS and not sampling.stated:
        return
    if sampling.max_tokens is not None:
        body[sampling.max_tokens_key] = sampling.max_tokens
    for key in ("temperature", "top_p", "n", "seed", "presence_penalty", "frequency_penalty"):
        if (value := getattr(sampling, key)) != getattr(_DEFAULTS, key) or key in sampling.stated:
            body[key] = value
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs and query.endpoint == "completions":
        body["logprobs"] = sampling.top_logprobs
    elif sampling.logprobs:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}


def _sampling(body: Mapping[str, Any], endpoint: Endpoint) -> Sampling:
    if not body.keys() & _SAMPLING_KEYS:
        return _DEFAULTS
    max_tokens = _typed(body, "max_completion_tokens", int, "an integer")
    newer = max_tokens is not None
    if not newer:
        max_tokens = _typed(body, "max_tokens", int, "an integer")
    logprobs, top = _logprobs(body, endpoint)
    return Sampling(
        max_tokens=max_tokens,
        temperature=_number(body, "temperature", 1.0),
        top_p=_number(body, "top_p", 1.0),
        n=_integer(body, "n", 1),
        stop=_stop(body),
        seed=_typed(body, "seed", int, "an integer"),
        presence_penalty=_number(body, "presence_penalty", 0.0),
        frequency_penalty=_number(body, "frequency_penalty", 0.0),
        logprobs=logprobs,
        top_logprobs=top,
        max_tokens_key="max_completion_tokens" if newer else "max_tokens",
        stated=stated(body.get("temperature"), body.get("top_p")),
    )


def stated(temperature: float | None, top_p: float | None) -> tuple[Literal["temperature", "top_p"], ...]:
    """`Sampling.stated` of a request with these, None where it has none."""
    if temperature != 1 and top_p != 1:
        return ()
    return (*(("temperature",) if temperature == 1 else ()), *(("top_p",) if top_p == 1 else ()))


def _logprobs(body: Mapping[str, Any], endpoint: Endpoint) -> tuple[bool, int]:
    """Completions have a number (0: only the sampled token's), chat a flag and a number."""
    if endpoint == "completions":
        number = _typed(body, "logprobs", int, "an integer")
        return number is not None, number or 0
    return bool(_typed(body, "logprobs", bool, "true or false")), _integer(body, "top_logprobs", 0)


def _messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a non-empty array", param="messages")
    return tuple(_message(m, i) for i, m in enumerate(messages))


def _message(message: Any, index: int) -> Message:
    param = f"messages[{index}]"
    if not isinstance(message, dict):
        raise RequestError(f"{param} must be an object", param=param)
    role = message.get("role")
    if role not in _ROLES:
        raise RequestError(f"{param}.role is {role!r}; use one of {', '.join(sorted(_ROLES))}", param=f"{param}.role")
    content = message.get("content")
    extra = {k: v for k, v in message.items() if k not in ("role", "content")} if len(message) > 2 else {}
    if isinstance(content, str):
        return Message(cast(Role, role), content, extra)
    parts = _parts(content, f"{param}.content")
    if all(isinstance(part, str) for part in parts):
        return Message(cast(Role, role), "".join(cast(list[str], parts)), extra)
    return Message.of(cast(Role, role), parts, extra)


def _parts(content: Any, param: str) -> list[TextOrImage]:
    """The texts and images of content given as parts, or null (with tool calls)."""
    if content is None:
        return []
    if not isinstance(content, list):
        raise RequestError(f"{param} must be a string or an array of parts", param=param)
    return [_part(part, f"{param}[{i}]") for i, part in enumerate(content)]


def _part(part: Any, param: str) -> TextOrImage:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    image = part.get("image_url") if kind == "image_url" else None
    if isinstance(image, dict) and isinstance(image.get("url"), str):
        return Image(image["url"], image.get("detail"), param)
    raise UnsupportedParameter(f"{param}: only parts of type text and image_url are supported", param=param)


def _prompt(body: Mapping[str, Any]) -> tuple[Message, ...]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return (Message("user", "", {PROMPT_IDS: prompt}),)
    raise RequestError("prompt must be a string or an array of token ids", param="prompt")


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, (list, tuple)) or not all(isinstance(s, str) for s in stops):
        raise RequestError("stop must be a string or an array of strings", param="stop")
    return tuple(s for s in stops if s)


def _number(body: Mapping[str, Any], key: str, default: float) -> float:
    value = _typed(body, key, _NUMBER, "a number")
    return default if value is None else float(value)


def _integer(body: Mapping[str, Any], key: str, default: int) -> int:
    value = _typed(body, key, int, "an integer")
    return default if value is None else int(value)


def _typed(body: Mapping[str, Any], key: str, kind: type | tuple[type, ...], words: str) -> Any:
    """The value of `key`, None if absent or null. A boolean is no number here."""
    value = body.get(key)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    raise RequestError(f"{key} must be {words}, got {type(value).__name__}", param=key)


def count_body(tokens: int) -> bytes:
    """The number of tokens in a prompt, from a replica to a Gateway."""
    return orjson.dumps({_COUNTED: tokens})


def count_of(body: bytes) -> int:
    """The same back. Raises UpstreamError for anything else."""
    try:
        tokens = orjson.loads(body)[_COUNTED]
    except (orjson.JSONDecodeError, KeyError, TypeError) as e:
        raise UpstreamError("the replica sent no count of tokens") from e
    if type(tokens) is not int or tokens < 0:
        raise UpstreamError("the replica sent no count of tokens")
    return tokens


def mark_of(*texts: str) -> str:
    """A mark that occurs in none of the texts, the same for the same texts; unpredictable before they are known."""
    digests = (blake2b(repr((n, texts)).encode(), digest_size=6, person=b"jethro-judge").hexdigest() for n in count())
    return next(digest for digest in digests if all(digest not in text for text in texts))
