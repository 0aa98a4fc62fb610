"""What an answer must pass before it is sent. Each check returns why an answer fails, or an empty string.

Engines that guide generation cannot break a schema; others can, and so can an answer that was cut off.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing.exceptions import Unresolvable

from serve_app.config.orchestration import ChecksConfig
from serve_app.strategy import Context
from serve_app.types import Query
from serve_app.wire.answers import AnswerReader, ChoiceText, invalid_call

Judge = Callable[[str, Query, Context, str], Awaitable[str]]
"""Why an answer of a pool must not be sent, by the guards; an empty string if it may."""
_KEPT: Final = 256
"""Compiled schemas that are kept."""
_MOST_MATCHED: Final = 100_000
"""Characters that regular expressions of the operator read."""


async def no_judge(text: str, query: Query, context: Context, pool: str) -> str:
    """Without guards every text may be sent."""
    del text, query, context, pool
    return ""


def failed_check(reading: AnswerReader, sent: Query, checks: ChecksConfig) -> str:
    """Why the answer to `sent` fails, of the first choice that does; an empty string if none does."""
    return next((why for said in reading.choices.values() if (why := _failed(said, sent, checks))), "")


def _failed(said: ChoiceText, sent: Query, checks: ChecksConfig) -> str:
    if said.says_nothing:
        return "it says nothing"
    if checks.whole and said.finish_reason == "length" and sent.sampling.max_tokens is None:
        return "it was cut off by the context"
    if checks.schema_ and (why := _misfit(said, sent)):
        return why
    text = said.text
    if said.calls and not text:
        return ""
    read = text[:_MOST_MATCHED].strip()
    if checks.matches is not None and re.fullmatch(checks.matches, read, re.DOTALL) is None:
        return "it does not have the form of the task"
    if any(re.search(pattern, read, re.IGNORECASE) for pattern in checks.declines):
        return "it declines"
    return ""


def _misfit(said: ChoiceText, sent: Query) -> str:
    """Why tool calls or JSON do not fit their schema."""
    if why := invalid_call(said, sent):
        return why
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in sent.tools}
    for call in said.calls.values():
        schema = schemas.get(call["name"])
        if schema and (why := mismatch(orjson.loads(call["arguments"] or "{}"), schema)):
            return f"its arguments for {call['name'][:64]} do not fit: {why}"
    shape = sent.response_format or {}
    kind = shape.get("type", "text")
    if kind == "text" or said.calls:
        return ""
    try:
        value = orjson.loads(said.text)
    except orjson.JSONDecodeError:
        return "it is no JSON" if said.finish_reason != "length" else "its JSON was cut off"
    if kind == "json_object":
        return "" if isinstance(value, dict) else "it is no JSON object"
    why = mismatch(value, (shape.get("json_schema") or {}).get("schema") or {})
    return f"it does not fit its schema: {why}" if why else ""


def mismatch(value: Any, schema: Mapping[str, Any]) -> str:
    """Where `value` breaks the JSON schema, without its content; an empty string if it fits.

    A schema that is invalid, or names what is elsewhere, constrains nothing here: the engine refuses it.
    """
    try:
        error = best_match(_validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)).iter_errors(value))
    except (SchemaError, Unresolvable):
        return ""
    if error is None:
        return ""
    return f"{error.json_path} breaks {error.validator!r}"


@lru_cache(_KEPT)
def _validator(schema: bytes) -> Draft202012Validator:
    parsed = orjson.loads(schema)
    Draft202012Validator.check_schema(parsed)
    return Draft202012Validator(parsed)
