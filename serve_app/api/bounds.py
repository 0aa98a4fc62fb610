"""Writes the operator's limits into the JSON schemas of the requests, so that the description says what holds here."""

from typing import Any

from serve_app.config.tree import LimitsConfig


def bound(schemas: dict[str, Any], limits: LimitsConfig) -> None:
    """Change `schemas`, the request models by name, in place. The checks themselves are in query.py."""
    for name in ("ChatRequest", "CompletionRequest"):
        properties = schemas[name]["properties"]
        for integer, most in _integers(name, limits).items():
            _member(properties[integer], "integer")["maximum"] = most
        stop = properties["stop"]
        _member(stop, "string")["maxLength"] = limits.stop_chars
        sequences = _member(stop, "array")
        sequences["maxItems"] = limits.stop
        sequences["items"]["maxLength"] = limits.stop_chars
    chat = schemas["ChatRequest"]["properties"]
    chat["messages"]["maxItems"] = limits.messages
    _member(chat["tools"], "array")["maxItems"] = limits.tools


def _integers(model: str, limits: LimitsConfig) -> dict[str, int]:
    both = {"n": limits.n, "max_tokens": limits.max_tokens}
    if model == "CompletionRequest":
        return {**both, "logprobs": limits.top_logprobs}
    return {**both, "max_completion_tokens": limits.max_tokens, "top_logprobs": limits.top_logprobs}


def _member(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The member of a union that is of one type."""
    found: dict[str, Any] = next(member for member in schema["anyOf"] if member.get("type") == kind)
    return found
