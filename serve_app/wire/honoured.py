"""A query as one pool is sent it: with the parameters and the fields of messages that the pool knows, and no others.

What would change the answer has been checked before a pool was chosen, see `pools.attempt.unmet`; here wishes are left
out that a pool knows nothing of.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from serve_app.types import Capabilities, Message, Query
from serve_app.wire.parameters import ECHOED, HINTS, PASSED

_CACHE: Final = frozenset(("cache_control",))


def honoured(query: Query, can: Capabilities) -> Query:
    """The query for a pool of these capabilities."""
    if not (query.extra or query.echoes or query.metadata or query.safety_identifier):
        return query
    extra = _extra(query, can)
    if not query.echoes:
        return query if extra == query.extra else replace(query, extra=extra)
    known = (ECHOED - _CACHE if can.echoes else frozenset()) | (_CACHE & can.parameters)
    return replace(
        query,
        extra=extra,
        messages=tuple([_of_message(message, known) if message.extra else message for message in query.messages]),
        tools=tuple([_without(tool, ECHOED - known) for tool in query.tools]),
    )


def _extra(query: Query, can: Capabilities) -> Mapping[str, Any]:
    extra = {k: v for k, v in query.extra.items() if k != PASSED and (k not in HINTS or k in can.parameters)}
    if can.unknown and (passed := query.extra.get(PASSED)):
        extra = {**passed, **extra}
    if query.endpoint == "chat":
        if query.metadata and "metadata" in can.parameters:
            extra["metadata"] = dict(query.metadata)
        if query.safety_identifier is not None and "safety_identifier" in can.parameters:
            extra["safety_identifier"] = query.safety_identifier
    return extra


def _of_message(message: Message, known: frozenset[str]) -> Message:
    extra = _without(message.extra, ECHOED - known)
    if calls := extra.get("tool_calls"):
        extra = {**extra, "tool_calls": [_without(call, ECHOED - known) for call in calls]}
    return replace(message, extra=extra)


def _without(fields: Mapping[str, Any], names: frozenset[str]) -> Mapping[str, Any]:
    return {k: v for k, v in fields.items() if k not in names} if names & fields.keys() else fields


def cached(message: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's message with its mark of what is to be cached on its last text, where upstreams read it."""
    mark = message.get("cache_control")
    if mark is None:
        return message
    new = {k: v for k, v in message.items() if k != "cache_control"}
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    at = next((i for i in reversed(range(len(parts))) if parts[i].get("text")), None)
    if at is None:
        return new
    parts[at] = {**parts[at], "cache_control": mark}
    return {**new, "content": parts}
