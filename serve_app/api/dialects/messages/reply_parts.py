"""What a delta, or a whole message, of OpenAI's format says: reasoning, text, a refusal, and calls."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from serve_app.errors import UpstreamError


class SaidCall(NamedTuple):
    """A call, or a piece of one."""

    position: int
    id: str
    name: str
    arguments: str


class Said(NamedTuple):
    """All of one delta or message."""

    reasoning: str
    text: str
    refusal: str
    calls: list[SaidCall]


def said_in(holder: Any) -> Said:
    """Raises UpstreamError for one of an unknown shape."""
    try:
        reasoning = holder.get("reasoning_content") or holder.get("reasoning")
        calls = [_call(call, i) for i, call in enumerate(holder.get("tool_calls") or ())]
        if holder.get("function_call"):
            calls.append(_call({"function": holder["function_call"]}, 0))
        return Said(_text(reasoning), _text(holder.get("content")), _text(holder.get("refusal")), calls)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise UpstreamError(f"The model sent an answer of an unknown shape ({type(e).__name__}).") from e


def _call(call: Mapping[str, Any], position: int) -> SaidCall:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = orjson.dumps(arguments).decode()
    index = call.get("index")
    at = index if type(index) is int else position
    return SaidCall(at, str(call.get("id") or ""), str(function.get("name") or ""), arguments or "")


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return content if isinstance(content, str) else ""
