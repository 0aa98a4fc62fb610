"""Finds spans of text by recognizers: in a whole text, or in one that arrives in pieces with the same result.

A recognizer is a pattern of bounded width with an optional check, say a checksum. In a stream a span is known for sure
once nothing that follows can change it. What may still become one is held back: the longest tail made of characters
that the pattern can match (its `alphabet`), at most its `width`. So prose flows word by word, and no part of a span
leaves before the whole is known, whatever the pieces are.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from re import _parser  # type: ignore[attr-defined]  # the standard library's own parser, for the width of a pattern
from typing import Final, NamedTuple

CONTEXT: Final = 64
"""Characters before a match that a check may read."""
_UNBOUNDED: Final = 1_000_000


class Span(NamedTuple):
    """Characters [start, end) of a text that are of a category, by the guard that found them."""

    start: int
    end: int
    category: str
    guard: str = ""


Check = Callable[[str, int, int], bool]
"""Of a text and a match in it: whether it counts. May read CONTEXT characters before the match, none after it."""


@dataclass(frozen=True, eq=False)
class Recognizer:
    """A pattern for one category. A group named `span` is what counts, by default the whole match.

    So that little of a text is searched: one without any of the strings in `trigger` has no match, nor has one without
    any of `also`, both in lower case, nor one in which `gate`, which several recognizers share, finds nothing. `heads`:
    every match begins with one of these, in lower-case ASCII; a pattern that only matters beyond ASCII says `foreign`.
    `alphabet`: every character that a match can hold, as the inside of a character class; empty: any. `tail`: of whole
    texts, what belongs to the span right after the match, of any length. Raises ValueError for a pattern of unbounded
    width.
    """

    category: str
    pattern: re.Pattern[str]
    check: Check | None = None
    trigger: tuple[str, ...] = ()
    gate: re.Pattern[str] | None = None
    alphabet: str = ""
    tail: re.Pattern[str] | None = None
    guard: str = ""
    also: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    foreign: bool = False
    width: int = field(init=False)

    def __post_init__(self) -> None:
        width = int(_parser.parse(self.pattern.pattern, self.pattern.flags).getwidth()[1])
        if width >= _UNBOUNDED:
            raise ValueError(f"the pattern {self.pattern.pattern[:80]!r} matches texts of any length: bound it")
        object.__setattr__(self, "width", width)
        end = rf"[{self.alphabet}]*\Z" if self.alphabet else ""
        object.__setattr__(self, "_end", re.compile(end) if end else None)

    def named(self, guard: str) -> "Recognizer":
        """The same for a guard of this name."""
        return replace(self, guard=guard)

    def find(self, text: str, lowered: str | None = None) -> Iterator[Span]:
        """Spans of a whole text, in order. `lowered`: see `aligned`."""
        for match in (
            self.pattern.finditer(text) if lowered is None or not self.heads else self._at_heads(text, lowered)
        ):
            if match.end() > match.start() and (self.check is None or self.check(text, match.start(), match.end())):
                span = self._span(match)
                if self.tail is not None and (more := self.tail.match(text, span.end)) is not None:
                    span = span._replace(end=more.end())
                yield span

    def undecided(self, text: str) -> int:
        """The position from which a match of the text may begin that what follows can still change."""
        bound = max(0, len(text) - self.width - 1)
        end: re.Pattern[str] | None = self.__dict__["_end"]
        if end is None:
            return bound
        found = end.search(text, bound)
        return found.start() if found is not None else len(text)

    def _at_heads(self, text: str, lowered: str) -> Iterator[re.Match[str]]:
        """What `finditer` finds, tried only where a match can begin: most patterns fail at most places slowly."""
        places = []
        for head in self.heads:
            at = lowered.find(head)
            while at >= 0:
                places.append(at)
                at = lowered.find(head, at + 1)
        end = 0
        for at in sorted(places):
            if at >= end and (match := self.pattern.match(text, at)) is not None:
                end = match.end()
                yield match

    def _span(self, match: re.Match[str]) -> Span:
        start, end = match.span("span" if "span" in self.pattern.groupindex else 0)
        if start < 0:
            start, end = match.span()
        return Span(start, end, self.category, self.guard)


def find_all(recognizers: Iterable[Recognizer], text: str) -> list[Span]:
    """Spans of all recognizers, by their start; they may overlap."""
    found: list[Span] = []
    ascii_only, lowered = text.isascii(), text.lower()
    same_places = aligned(text, lowered)
    open_gates: dict[re.Pattern[str], bool] = {}
    for recognizer in recognizers:
        if recognizer.foreign and ascii_only:
            continue
        if not _has_any(lowered, recognizer.trigger) or not _has_any(lowered, recognizer.also):
            continue
        if (gate := recognizer.gate) is not None:
            is_open = open_gates.get(gate)
            if is_open is None:
                is_open = open_gates[gate] = gate.search(text) is not None
            if not is_open:
                continue
        found += recognizer.find(text, same_places)
    return sorted(found)


def _has_any(lowered: str, signs: tuple[str, ...]) -> bool:
    for sign in signs:  # a loop, since a generator costs more than most searches
        if sign in lowered:
            return True
    return not signs


def aligned(text: str, lowered: str) -> str | None:
    """The text in lower case if each of its characters is that of the same place; None if a pattern that ignores case
    would find ASCII letters in it that are none: dotless i, long s.
    """
    return lowered if len(lowered) == len(text) and "\u0131" not in lowered and "\u017f" not in lowered else None


def merged(spans: Sequence[Span]) -> list[list[Span]]:
    """Sorted spans in groups that overlap; each group is one piece of the text."""
    groups: list[list[Span]] = []
    end = -1
    for span in spans:
        if groups and span.start < end:
            groups[-1].append(span)
        else:
            groups.append([span])
        end = max(end, span.end)
    return groups


class SpanStream:
    """The spans of a text in pieces: for any way to cut it the same as those of the whole, save their `tail`."""

    def __init__(self, recognizers: Sequence[Recognizer]) -> None:
        self._recognizers = recognizers
        self._at = [0] * len(recognizers)
        self._text, self._before = "", 0
        self._known: list[Span] = []

    def feed(self, piece: str, *, last: bool = False) -> tuple[list[list[Span]], int]:
        """Take in a piece. Returns the groups of spans that are now complete, and up to where the text is decided.

        Positions are of the whole text; nothing at or after the second value may leave yet. `last`: nothing follows.
        """
        self._text += piece
        length = len(self._text)
        decided = length
        for number, recognizer in enumerate(self._recognizers):
            limit = length if last else recognizer.undecided(self._text)
            decided = min(decided, self._scan(number, recognizer, limit, last))
        groups = merged(sorted(self._known))
        ready = []
        while groups and (last or max(span.end for span in groups[0]) <= decided):
            ready.append(groups.pop(0))
        self._known = [span for group in groups for span in group]
        if self._known:
            decided = min(decided, self._known[0].start)
        offset = self._before
        found = [[s._replace(start=s.start + offset, end=s.end + offset) for s in group] for group in ready]
        self._forget(decided)
        return found, decided + offset

    def _scan(self, number: int, recognizer: Recognizer, limit: int, last: bool) -> int:
        """Collect the matches that begin before `limit`; returns up to where this recognizer has decided."""
        at = self._at[number]
        while at < limit or (last and at <= limit):
            match = recognizer.pattern.search(self._text, at)
            if match is None or (match.start() >= limit and not last):
                break
            at = max(match.end(), at + 1)
            counts = match.end() > match.start()
            if counts and (recognizer.check is None or recognizer.check(self._text, match.start(), match.end())):
                self._known.append(recognizer._span(match))
        self._at[number] = max(at, limit)
        return limit

    def _forget(self, decided: int) -> None:
        """Drop text that no recognizer looks at again."""
        keep = min([decided, *self._at, *(span.start for span in self._known)]) - CONTEXT
        if keep > 4 * CONTEXT:
            self._text, self._before = self._text[keep:], self._before + keep
            self._at = [at - keep for at in self._at]
            self._known = [s._replace(start=s.start - keep, end=s.end - keep) for s in self._known]
