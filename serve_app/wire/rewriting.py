"""Rewrites the texts of an answer on its way: of every choice its content and its tool calls, whole or in pieces.

What a text becomes is a TextFilter's business. One may hold text back until it knows more, and may cut its choice,
which then ends with the finish reason `content_filter` and says nothing further.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from serve_app.errors import UpstreamError
from serve_app.types import FinishReason
from serve_app.wire.frames import Answer, Frame

FIELDS: Final = ("content", "text", "reasoning_content", "reasoning", "refusal")
"""Of a message, a delta or a choice: what a caller reads."""
ARGUMENTS: Final = "arguments"
"""The name under which a filter is made for a tool call's arguments, which are JSON."""
FILTERED: Final[FinishReason] = "content_filter"


class TextFilter(Protocol):
    """Takes in one text in pieces."""

    @property
    def cut(self) -> bool:
        """Whether the choice ends here: nothing after what was returned may leave."""

    def feed(self, piece: str) -> str:
        """What may leave now."""

    def end(self) -> str:
        """What else may leave, as nothing follows."""


class AnswerRewriter:
    """Rewrites one answer. `new_filter` makes the filter of one text by its field; `refusal` explains a cut choice."""

    def __init__(self, new_filter: Callable[[str], TextFilter], refusal: str = "") -> None:
        self._new_filter, self._refusal = new_filter, refusal
        self._filters: dict[tuple[int, str, int], TextFilter] = {}
        self._finished: set[int] = set()
        self.cut: set[int] = set()
        """The choices that were cut."""

    def frame(self, frame: Frame) -> Frame | None:
        """A frame of a stream; None if nothing of it may leave yet. Raises UpstreamError for a broken event."""
        events = [kept for event in frame.events if (kept := self._event(event)) is not None]
        return Frame(b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)) if events else None

    def answer(self, answer: Answer) -> Answer:
        """A whole answer. Raises UpstreamError for one of an unknown shape."""
        body = dict(answer.parsed)
        try:
            body["choices"] = [self._whole(dict(choice)) for choice in body.get("choices") or ()]
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise UpstreamError(f"the model sent an answer of an unknown shape ({type(e).__name__})") from e
        return Answer(orjson.dumps(body))

    def _event(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        choices = event.get("choices")
        if not choices:
            return dict(event)
        try:
            kept = [c for choice in choices if (c := self._piece(dict(choice))) is not None]
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise UpstreamError(f"the model sent an event of an unknown shape ({type(e).__name__})") from e
        if kept:
            return {**event, "choices": kept}
        return {**event, "choices": []} if event.get("usage") else None

    def _piece(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """A choice of an event, as far as it may leave; None for nothing."""
        index = int(choice["index"])
        if index in self.cut:
            return None
        finish = choice.get("finish_reason")
        holder = dict(choice["delta"]) if isinstance(choice.get("delta"), dict) else choice
        said = holder.get("role") is not None
        for name in FIELDS:
            if isinstance(holder.get(name), str):
                holder[name] = self._feed((index, name, 0), holder[name])
                said = said or bool(holder[name])
        calls = holder.get("tool_calls")
        if calls:
            holder["tool_calls"] = [self._call(index, dict(call), i) for i, call in enumerate(calls)]
            said = True
        if finish is not None and index not in self.cut:
            self._flush(index, holder)
        if index in self.cut:
            finish, choice["logprobs"] = FILTERED, None
        if holder is not choice:
            choice["delta"] = holder
        if finish is None:
            return choice if said or choice.get("logprobs") or _holds_more(holder) else None
        choice["finish_reason"] = finish
        return choice

    def _feed(self, key: tuple[int, str, int], piece: str) -> str:
        if key[0] in self.cut:
            return ""
        found = self._filters.get(key)
        if found is None:
            found = self._filters[key] = self._new_filter(key[1])
        out = found.feed(piece)
        if found.cut:
            self.cut.add(key[0])
        return out

    def _call(self, index: int, call: dict[str, Any], position: int) -> dict[str, Any]:
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get(ARGUMENTS), str):
            number = int(call.get("index", position))
            text = self._feed((index, ARGUMENTS, number), function[ARGUMENTS])
            call["function"] = {**function, ARGUMENTS: text}
        return call

    def _flush(self, index: int, holder: dict[str, Any]) -> None:
        """Put what the choice's filters still hold into its last piece."""
        for key, found in self._filters.items():
            if key[0] != index or index in self.cut:
                continue
            rest = found.end()
            if found.cut:
                self.cut.add(index)
            if not rest:
                continue
            if key[1] != ARGUMENTS:
                holder[key[1]] = (holder.get(key[1]) or "") + rest
                continue
            calls = list(holder.get("tool_calls") or ())
            at = next((i for i, call in enumerate(calls) if call.get("index", i) == key[2]), None)
            if at is None:
                calls.append({"index": key[2], "function": {ARGUMENTS: rest}})
            else:
                function = calls[at].get("function") or {}
                text = (function.get(ARGUMENTS) or "") + rest
                calls[at] = {**calls[at], "function": {**function, ARGUMENTS: text}}
            holder["tool_calls"] = calls

    def _whole(self, choice: dict[str, Any]) -> dict[str, Any]:
        index = int(choice.get("index", 0))
        holder = dict(choice["message"]) if isinstance(choice.get("message"), dict) else choice
        for name in FIELDS:
            if isinstance(holder.get(name), str):
                holder[name] = self._all_of((index, name, 0), holder[name])
        for i, call in enumerate(holder.get("tool_calls") or ()):
            function = call.get("function")
            if isinstance(function, dict) and isinstance(function.get(ARGUMENTS), str):
                text = self._all_of((index, ARGUMENTS, i), function[ARGUMENTS])
                holder["tool_calls"][i] = {**call, "function": {**function, ARGUMENTS: text}}
        if index in self.cut:
            if holder is choice:
                choice["text"] = ""
            else:
                holder = {"role": "assistant", "content": None, "refusal": self._refusal or None}
            choice["finish_reason"], choice["logprobs"] = FILTERED, None
        if holder is not choice:
            choice["message"] = holder
        return choice

    def _all_of(self, key: tuple[int, str, int], text: str) -> str:
        out = self._feed(key, text)
        if key[0] in self.cut:
            return out
        found = self._filters[key]
        out += found.end()
        if found.cut:
            self.cut.add(key[0])
        return out


def _holds_more(holder: Mapping[str, Any]) -> bool:
    """Whether a piece has anything that is no text of a known field."""
    return any(value for name, value in holder.items() if name not in (*FIELDS, "index", "finish_reason", "logprobs"))
