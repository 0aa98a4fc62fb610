"""Personal data in a request's texts: the tiers of the config, one after the other.

Names and places have no pattern. They are found by a pool of place local that lists them, or by a spaCy model
that the operator has installed for Presidio; without either they are not found, and the documentation says so.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from serve_app.config.placement import PersonalDataConfig
from serve_app.guards.personal.names import NamesModel
from serve_app.guards.personal.patterns import personal_recognizers
from serve_app.guards.personal.presidio import PresidioTier
from serve_app.guards.spans import Span, find_all, merged
from serve_app.pools.base import Pool
from serve_app.types import Query
from serve_app.wire.frames import Call


class PersonalData:
    """Finds personal data. Raises DependencyError if a tier's extra is not installed."""

    def __init__(self, config: PersonalDataConfig, pools: Mapping[str, Pool]) -> None:
        self._categories = config.categories
        self.recognizers = personal_recognizers(config.regions, config.categories)
        named = config.categories is None or bool({"name", "location"} & set(config.categories))
        self._presidio = PresidioTier(config) if config.tier == "presidio" else None
        pool = config.names_pool
        self._names = NamesModel(pools[pool], config.names_timeout_s) if pool is not None and named else None

    @property
    def waits(self) -> bool:
        """Whether a pool is called, so that a request waits for more than arithmetic."""
        return self._names is not None

    async def find(self, texts: Sequence[str], query: Query, call: Call) -> list[list[Span]]:
        """Spans of each text, sorted and without overlaps: of those that overlap the first, then the longest.

        Raises what the names' pool raises, or PoolUnavailable if it takes too long: unchecked is not clean.
        """
        names = await self._names.find(texts, query, call) if self._names is not None else {}
        return [self._in(text, names) for text in texts]

    def count(self, texts: Iterable[str]) -> Counter[str]:
        """Findings by category, of the tiers that wait for nothing."""
        return Counter(span.category for text in texts for span in self._in(text, {}))

    def _in(self, text: str, names: Mapping[str, str]) -> list[Span]:
        found = find_all(self.recognizers, text)
        if self._presidio is not None:
            found += self._presidio.find(text)
        found += _occurrences(text, names)
        kept = [s for s in found if self._categories is None or s.category in self._categories]
        kept.sort(key=lambda span: (span.start, -span.end))
        return [_joined(group) for group in merged(kept)]


def _joined(group: Sequence[Span]) -> Span:
    """One span over all that overlap, of the category of the first and longest."""
    return group[0]._replace(end=max(span.end for span in group))


def _occurrences(text: str, names: Mapping[str, str]) -> Iterator[Span]:
    for name, category in names.items():
        at = text.find(name)
        while at >= 0:
            end = at + len(name)
            if not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum()):
                yield Span(at, end, category)
            at = text.find(name, end)


def texts_of(query: Query) -> list[str]:
    """Every text of a query that a model sees: contents, and what tool calls, tools and schemas hold."""
    texts = [message.content for message in query.messages]
    for message in query.messages:
        if message.extra:
            texts += strings_in(message.extra)
    for value in (query.tools, query.tool_choice, query.response_format, query.extra or None):
        if value:
            texts += strings_in(value)
    return [text for text in texts if text]


def strings_in(value: Any) -> Iterator[str]:
    """All strings and long numbers of JSON-like values, without the keys; a tool call's arguments are read as JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from strings_in(arguments_of(part) if key == "arguments" else part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings_in(part)
    elif (text := long_number(value)) is not None:
        yield text


def arguments_of(text: Any) -> Any:
    """A tool call's arguments as the value that they encode; as they are where they encode none."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text


def long_number(value: Any) -> str | None:
    """A number that may be more than a quantity, as text: of seven digits and more."""
    return str(value) if type(value) is int and abs(value) >= 1_000_000 else None
