"""The forms in which a call and its answer cross a pool: Call, Frame, Answer.

Tokens cross as the bytes of OpenAI's own wire format, serialized once where the engine is. Code that needs usage,
finish reasons or log-probabilities reads them from the frame, which parses on first use.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from serve_app.types import Usage


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks: the decision's id names the answer (`chatcmpl-<id>`), the deadline is on the monotonic clock.

    `may_wait`: with no replica there, wait for one to come up rather than fail at once. A strategy that can turn to
    another pool says no.
    """

    id: str
    request_id: str
    created_s: int
    deadline_s: float | None = None
    may_wait: bool = True


@dataclass(frozen=True)
class Frame:
    """One or more whole SSE events, as received (`data: {...}` and a blank line each)."""

    data: bytes

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The events' JSON bodies, `[DONE]` left out. Raises orjson.JSONDecodeError on a broken event."""
        bodies = (e[5:].strip() for e in self.data.split(b"\n\n") if e.startswith(b"data:"))
        return [orjson.loads(b) for b in bodies if b != b"[DONE]"]


@dataclass(frozen=True)
class Answer:
    """A whole answer: the bytes of OpenAI's response object, as received."""

    body: bytes

    @cached_property
    def parsed(self) -> dict[str, Any]:
        """The response object. Raises orjson.JSONDecodeError if the upstream sent no JSON."""
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed

    @property
    def usage(self) -> Usage:
        """Tokens read and written, zero where the upstream gave none."""
        return usage_from_openai(self.parsed.get("usage"))


def usage_from_openai(usage: dict[str, Any] | None) -> Usage:
    """Usage from OpenAI's object."""
    usage = usage or {}
    return Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
