"""Replaces personal data before a pool sees it, and puts it back into the answer.

The same value has the same placeholder in the whole conversation, by its first appearance, so that later turns that
repeat the conversation agree. Log-probabilities of an answer are the placeholders' own.
"""

import json
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from serve_app.guards.personal.detector import PersonalData, arguments_of, long_number, texts_of
from serve_app.guards.spans import Span
from serve_app.pools.base import Pool
from serve_app.types import Message, Query
from serve_app.wire.frames import Answer, Call, Frame
from serve_app.wire.rewriting import ARGUMENTS, AnswerRewriter

_INSTRUCTION: Final = (
    "Words in square brackets such as {example} stand for data that was taken out. Use them where you would use that "
    "data, exactly as they are written, and do not say that data is missing."
)
_UNCHANGED: Final = ("id", "tool_call_id", "type", "role", "name")
"""Keys whose values are no text, such as a function's name."""


class Placeholders:
    """Value to placeholder, and back. `taken`: texts in which no placeholder may occur already."""

    def __init__(self, taken: Collection[str]) -> None:
        self._taken = "\n".join(taken)
        self._of: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def of(self, value: str, category: str) -> str:
        """The placeholder of a value."""
        if value not in self._of:
            self._of[value] = self._new(category.upper())
        return self._of[value]

    @property
    def values(self) -> Mapping[str, str]:
        """By placeholder."""
        return {placeholder: value for value, placeholder in self._of.items()}

    def _new(self, name: str) -> str:
        while True:
            number = self._counts[name] = self._counts.get(name, 0) + 1
            if f"[{name}_{number}]" not in self._taken:
                return f"[{name}_{number}]"


class Restoring:
    """Puts values back into one text in pieces; a TextFilter. `escaped`: the text is JSON, the values are inside it."""

    cut = False

    def __init__(self, values: Mapping[str, str], *, escaped: bool = False) -> None:
        self._values = {k: json.dumps(v, ensure_ascii=False)[1:-1] for k, v in values.items()} if escaped else values
        self._pattern = re.compile("|".join(map(re.escape, values)))
        self._longest = max(map(len, values))
        self._held = ""

    def feed(self, piece: str) -> str:
        """The text up to what may be the beginning of a placeholder."""
        text = self._held + piece
        at = text.rfind("[", max(0, len(text) - self._longest + 1))
        begun = at >= 0 and any(name.startswith(text[at:]) and name != text[at:] for name in self._values)
        self._held = text[at:] if begun else ""
        return self._restored(text[:at] if begun else text)

    def end(self) -> str:
        """What is still held."""
        held, self._held = self._held, ""
        return self._restored(held)

    def _restored(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._values[found.group()], text)


class Redactor:
    """Redacts for one kind of pool. `categories`: what is replaced, None for all that `personal` finds."""

    def __init__(
        self, personal: PersonalData, categories: Collection[str] | None = None, *, instruct: bool = True
    ) -> None:
        self._personal, self._categories, self._instruct = personal, categories, instruct

    async def stream(self, pool: Pool, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """The pool's answer to the redacted query, with the values put back."""
        sent, values = await self.redacted(query, call)
        async with aclosing(pool.stream(sent, call)) as frames:
            if not values:
                async for frame in frames:
                    yield frame
                return
            rewriter = _restoring(values)
            async for frame in frames:
                if (restored := rewriter.frame(frame)) is not None:
                    yield restored

    async def complete(self, pool: Pool, query: Query, call: Call) -> Answer:
        """The same at once."""
        sent, values = await self.redacted(query, call)
        answer = await pool.complete(sent, call)
        # vectors are of the placeholders: there is nothing to put back
        return _restoring(values).answer(answer) if values and query.endpoint != "embeddings" else answer

    async def redacted(self, query: Query, call: Call) -> tuple[Query, Mapping[str, str]]:
        """The query as the pool may see it, and values by placeholder. Whom and what a request names is left out."""
        extra = {key: value for key, value in query.extra.items() if key != "prompt_cache_key"}
        query = replace(query, user=None, safety_identifier=None, metadata={}, extra=extra)
        parts = [part for m in query.messages for part in m.parts if isinstance(part, str) and part]
        texts = texts_of(query) + parts + list(query.sampling.stop)
        found = await self._personal.find(texts, query, call)
        if not any(found):
            return query, {}
        spans = {text: self._replaced(each) for text, each in zip(texts, found, strict=True)}
        placeholders = Placeholders(texts)
        changed = _Changed(spans, placeholders)
        messages = [m.rewritten(changed.text, changed.value(_unnamed(m))) for m in query.messages]
        tools, stop = changed.value(query.tools), tuple(map(changed.text, query.sampling.stop))
        values = placeholders.values
        if not values:
            return query, {}
        if self._instruct and query.endpoint == "chat":
            messages = _instructed(messages, _INSTRUCTION.format(example=next(iter(values))))
        sent = replace(
            query,
            messages=tuple(messages),
            sampling=replace(query.sampling, stop=stop),
            tools=tuple(tools),
            tool_choice=changed.value(query.tool_choice),
            response_format=changed.value(query.response_format),
            extra=changed.value(query.extra),
        )
        return sent, values

    def _replaced(self, spans: list[Span]) -> list[Span]:
        return [s for s in spans if self._categories is None or s.category in self._categories]


class _Changed:
    """Texts and JSON-like values with placeholders in place of what was found in them."""

    def __init__(self, spans: Mapping[str, list[Span]], placeholders: Placeholders) -> None:
        self._spans, self._placeholders = spans, placeholders

    def text(self, text: str) -> str:
        parts, at = [], 0
        for span in self._spans.get(text, ()):
            parts += [text[at : span.start], self._placeholders.of(text[span.start : span.end], span.category)]
            at = span.end
        return "".join([*parts, text[at:]])

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: part if key in _UNCHANGED else self._part(key, part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(part) for part in value]
        number = long_number(value)
        return value if number is None or not self._spans.get(number) else self.text(number)

    def _part(self, key: str, part: Any) -> Any:
        inner = arguments_of(part) if key == ARGUMENTS else part
        if inner is part:
            return self.value(part)
        changed = self.value(inner)
        return part if changed == inner else json.dumps(changed, ensure_ascii=False)


def _unnamed(message: Message) -> Mapping[str, Any]:
    """What a message has besides its content, without the name of a person who speaks."""
    if message.role in ("tool", "function") or "name" not in message.extra:
        return message.extra
    return {key: value for key, value in message.extra.items() if key != "name"}


def _instructed(messages: list[Message], text: str) -> list[Message]:
    """With the instruction at the end of the system message: some models accept one only, at the beginning."""
    first = messages[0]
    if first.role in ("system", "developer"):
        return [Message(first.role, f"{first.content}\n\n{text}", first.extra), *messages[1:]]
    return [Message("system", text), *messages]


def _restoring(values: Mapping[str, str]) -> AnswerRewriter:
    return AnswerRewriter(lambda name: Restoring(values, escaped=name == ARGUMENTS))
