"""Parsed JSON of an upstream, whatever is odd about it, in OpenAI's shape: text, numbers, usage, and errors.

Pure: values in, values out. What had to be repaired is counted by kind in a Counter, which the metrics show.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

MOST_TOKENS: Final = 10**9
"""Far above any context; a count beyond it is an upstream's mistake, and would not fit the store as a sum."""
_WORDS: Final = ("message", "detail", "msg", "text", "error")
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
_LEAST_LOGPROB: Final = -9999.0
"""What OpenAI reports for a token outside the likeliest ones."""
_DEEPEST: Final = 250
"""Levels of nesting: orjson reads a thousand and writes 254."""


def lenient_loads(body: bytes, repairs: Counter[str]) -> tuple[Any, bool]:
    """The value of `body`, and whether it had to be repaired to be JSON. Raises ValueError if that is not possible.

    Broken UTF-8 and halves of surrogate pairs become U+FFFD. -Infinity becomes a finite bound, other numbers that JSON
    has not become null.
    """
    try:
        return orjson.loads(body), False
    except orjson.JSONDecodeError:
        try:
            value = _sound(json.loads(body.decode("utf-8-sig", "replace"), strict=False))
        except RecursionError as e:
            raise ValueError("nested too deeply") from e
    repairs["json"] += 1
    return value, True


def too_deep(body: bytes, value: Any) -> bool:
    """Whether the value of `body` is nested more deeply than it could be written again."""
    if len(body) < 2 * _DEEPEST or body.count(b"[") + body.count(b"{") < _DEEPEST:
        return False
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_sound(key): _sound(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_sound(inner) for inner in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        value = float(value) if abs(value) < 10**300 else math.nan
    if isinstance(value, float) and not math.isfinite(value):
        return _LEAST_LOGPROB if value == -math.inf else None
    return value


def tokens(value: Any) -> int | None:
    """A count of tokens; None if the value is none. Whole numbers may be written as text or as a float."""
    if isinstance(value, str):
        value = int(value) if value.strip().isdecimal() and len(value) < 20 else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def normalize_answer(body: dict[str, Any], repairs: Counter[str]) -> bool:
    """Give an event, or a whole answer, a sane usage at its top or none, and no `jethro`; returns whether it changed.

    Some upstreams are endpoints of this kind themselves; the caller gets one `jethro` object, ours.
    """
    changed = "jethro" in body
    if changed:
        del body["jethro"]
    usage = body.get("usage")
    if not usage and (inner := _inner_usage(body)) is not None:
        body["usage"] = usage = inner
        changed = True
    if usage is None:
        return changed
    sane = _sane_usage(usage)
    if sane is usage:
        return changed
    repairs["usage"] += 1
    body["usage"] = sane
    return True


def complete_choices(choices: list[dict[str, Any]], part: Literal["delta", "message"]) -> bool:
    """Give each choice its index and its `part` where these are missing or odd; returns whether that changed one.

    Choices with `text` are those of completions. Raises ValueError for one of an unknown shape.
    """
    changed = False
    for position, choice in enumerate(choices):
        before = dict(choice)
        if type(choice.get("index")) is not int:
            index = tokens(choice.get("index"))
            choice["index"] = position if index is None else index
        if "text" in choice and choice.get(part) is None:
            choice["text"] = "" if choice["text"] is None else choice["text"]
        else:
            choice[part] = _part(choice.get(part), part)
        changed |= choice != before
    return changed


def _part(found: Any, part: Literal["delta", "message"]) -> dict[str, Any]:
    """Some leave it out where a filter took all of the answer."""
    given: dict[str, Any] = {} if found is None else found
    if not isinstance(given, dict):
        raise ValueError(f"a {part} that is not an object")
    if part == "delta" or ("role" in given and "content" in given):
        return given
    return {"role": "assistant", "content": None, **given}


def _inner_usage(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Usage inside a choice or a vendor's object."""
    choices = body.get("choices")
    places = [body.get("x_groq"), *(choices if isinstance(choices, list) else ())]
    found = (place["usage"] for place in places if isinstance(place, dict) and isinstance(place.get("usage"), dict))
    return next(found, None)


def _sane_usage(usage: Any) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    given = {key: usage[key] for key in _COUNTS if usage.get(key) is not None}
    if all(type(v) is int and 0 <= v <= MOST_TOKENS for v in given.values()):
        return usage if given or not any(key in usage for key in _COUNTS) else None
    read, written = tokens(given.get("prompt_tokens")), tokens(given.get("completion_tokens"))
    if read is None and written is None:
        return None
    counts = (read or 0, written or 0, (read or 0) + (written or 0))
    return {**usage, **dict(zip(_COUNTS, counts, strict=True))}


def error_in(body: Any) -> dict[str, Any] | None:
    """The error that a parsed body reports, with its `message` as text; None if it reports none.

    Shapes: `{"error": ...}` (object, text, list), `{"object": "error", ...}` and `{"message": ...}` (vLLM before 0.10),
    `{"detail": ...}` (FastAPI), `{"errors": [...]}`, any of them in a list, text alone, and the error of a choice.
    """
    if isinstance(body, str):
        return {"message": body}
    if isinstance(body, list):
        errors = (error_in(e) for e in body if not isinstance(e, list))
        return next((e for e in errors if e is not None), None)
    if not isinstance(body, dict):
        return None
    error, choices = body.get("error"), body.get("choices")
    answers = "choices" in body or body.get("usage")  # some write an empty error into every event
    if error or (error is not None and error is not False and not answers):
        return _error_object(error, body)
    if "error" in (body.get("object"), body.get("type")):
        return _error_object(body, {})
    if "choices" in body:
        inside = choices if isinstance(choices, list) else ()
        found = (c["error"] for c in inside if isinstance(c, dict) and c.get("error"))
        return next((_error_object(e, {}) for e in found), None)
    for key in ("errors", "detail", "message", "msg"):
        value = body.get(key)
        if isinstance(value, dict):
            if key != "message":  # a `message` that is an object is an answer's
                return _error_object(value, body)
        elif text := _text_of(value):
            first = next((v for v in value if isinstance(v, dict)), {}) if isinstance(value, list) else {}
            return {**first, **body, "message": text}
    return None


def _error_object(error: Any, around: Mapping[str, Any]) -> dict[str, Any]:
    """`error` as an object whose `message` is text; code, status and type may stand next to it."""
    shared = {k: around[k] for k in ("code", "status", "type", "param", "message") if around.get(k) is not None}
    if isinstance(error, list):
        error = next((e for e in error if isinstance(e, dict)), None) or {"message": _text_of(error)}
    if not isinstance(error, dict):
        code = "" if isinstance(error, bool) or not isinstance(error, str | int | float) else error
        if text := _text_of(shared.get("message")):
            return {"code": code, **shared, "message": text}
        return {**shared, "message": code} if isinstance(code, str) else {"code": code, **shared, "message": ""}
    if isinstance(error.get("error"), dict):
        error = {**error, **error["error"]}
    words = (error.get(key) for key in ("message", "detail", "msg", "error", "errors"))
    message = next((text for word in words if (text := _text_of(word))), "") or _text_of(shared.get("message"))
    return {**shared, **error, "message": message}


def _text_of(value: Any) -> str:
    """Text, that of an object, or those of a list (FastAPI's has an entry for each field that is wrong); or empty."""
    if isinstance(value, list):
        return "; ".join(text for v in value if not isinstance(v, list) and (text := _text_of(v)))
    if isinstance(value, dict):
        value = next((found for word in _WORDS if isinstance(found := value.get(word), str) and found), "")
    return value if isinstance(value, str) else ""


def chunk_of_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """A whole answer as the one event of a stream."""
    choices = [_delta_choice(c) if isinstance(c, dict) else c for c in answer.get("choices") or ()]
    kind = "chat.completion.chunk" if any("delta" in c for c in choices if isinstance(c, dict)) else "text_completion"
    return {**answer, "object": kind, "choices": choices}


def _delta_choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    if not isinstance(message, dict):
        return choice
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        message = {**message, "tool_calls": [{"index": i, **c} for i, c in enumerate(calls) if isinstance(c, dict)]}
    return {key: value for key, value in choice.items() if key != "message"} | {"delta": message}
