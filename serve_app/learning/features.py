"""Features of a query that take microseconds to read: lengths, digits, operators, keywords, a guess at the task.

Pure Python, which is faster than numpy for one query. Nothing is learned here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p
from operator import gt
from string import ascii_uppercase

from serve_app.types import Query

_HEAD, _TAIL = 1500, 500
"""Characters of the last user turn that are read word by word; the lengths count it all."""
_TOKEN = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")
_OPERATORS = frozenset("+-*/^%=<>×÷−±√")
_SIGNS = _OPERATORS | frozenset("()")
_CAPITALS = ascii_uppercase.encode()
_GROUPS: dict[str, str] = {
    "add": "add plus sum total altogether together",
    "subtract": "subtract minus difference less away remain",
    "multiply": "multiply times product double triple twice squared",
    "divide": "divide divided quotient ratio half percent percentage fraction",
    "evaluate": "evaluate calculate compute solve simplify value equation integral derivative",
    "sort": "sort order rank arrange ascending descending alphabetical",
    "compare": "largest smallest biggest bigger smaller larger greatest least maximum minimum max min best worst",
    "reverse": "reverse reversed backwards backward palindrome",
    "spell": "spell letter letters vowels syllables characters anagram",
    "count": "count many often",
    "calendar": "monday tuesday wednesday thursday friday saturday sunday day month january february march april may "
    "june july august september october november december today tomorrow yesterday calendar date",
    "duration": "days weeks months years hours minutes seconds hour minute week year",
    "units": "km cm mm meters metres kg grams miles feet inches celsius fahrenheit litres liters pounds convert m g",
    "roman": "roman numeral numerals",
    "steps": "start then first next finally step steps take",
    "lookup": "who whom whose has have find which",
    "code": "code python javascript java rust sql bash html css function bug compile regex api class implement "
    "algorithm program script debug refactor",
    "reason": "why prove proof derive explain analyse analyze reason argue evaluate evidence because infer",
    "write": "essay poem story email letter draft rewrite blog article song speech haiku",
    "summarise": "summarise summarize summary tldr shorten condense",
    "translate": "translate translation french german spanish italian chinese japanese english portuguese",
    "extract": "extract json table list csv classify label",
    "facts": "capital president born invented population country city",
    "greet": "hello hi hey thanks thank please bye",
}
_WORD_TO_GROUP: dict[str, str] = {word: group for group, words in _GROUPS.items() for word in words.split()}
_RANK = {group: rank for rank, group in enumerate(_GROUPS)}
_SIGN_TO_GROUP = {"+": "add", "-": "subtract", "−": "subtract", "*": "multiply", "×": "multiply", "/": "divide"}

NUMERIC = (
    "chars", "words", "lines", "sentences", "numbers", "digits", "longest_number", "operators", "brackets",
    "longest_word", "word_length", "commas", "questions", "fences", "upper_share", "digit_share", "foreign_share",
    "turns", "history_chars", "system_chars", "tools",
)  # fmt: skip
"""Names of `Reading.numeric`, in order. Counts are log1p, shares are in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read: numbers in the order of NUMERIC, the task guess, and the last user turn's tokens (lower case)."""

    numeric: tuple[float, ...]
    task: str
    tokens: tuple[str, ...]
    operators: str
    """Signs between numbers in their order, brackets included, at most 8."""


def read(query: Query) -> Reading:
    """Read a query; under 100 µs for a prompt of usual length."""
    turn, before, system = _turns(query)
    text = turn if len(turn) <= _HEAD + _TAIL else f"{turn[:_HEAD]}\n{turn[-_TAIL:]}"
    tokens = _TOKEN.findall(text.lower())
    words, numbers, signs = _sorted_out(tokens)
    brackets = signs.count("(") + signs.count(")")
    scale = 1.0 / (len(text) or 1)
    lengths = [len(n) for n in numbers]
    sizes = [len(w) for w in words]
    digits = sum(lengths)
    capitals, foreign = _letters_of_note(text)
    numeric = (
        *map(log1p, (len(turn), len(words), turn.count("\n"), tokens.count("."), len(numbers), digits)),
        *map(log1p, (max(lengths, default=0), len(signs) - brackets, brackets, max(sizes, default=0))),
        sum(sizes) / (len(words) or 1) / 10,
        *map(log1p, (tokens.count(","), tokens.count("?"), turn.count("```"))),
        *(capitals * scale, digits * scale, foreign * scale),
        *map(log1p, (len(query.messages), before, system, len(query.tools))),
    )
    if numbers:
        return Reading(numeric, _task(words, signs) or "numbers", tuple(tokens), "".join(signs[:8]))
    return Reading(numeric, _task(words, ()) or "other", tuple(tokens), "")


def _sorted_out(tokens: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Words, numbers and signs in one pass; the rest is punctuation."""
    words, numbers, signs = [], [], []
    for token in tokens:
        first = token[0]
        if first.isalpha():
            words.append(token)
        elif first.isdecimal():
            numbers.append(token)
        elif token in _SIGNS:
            signs.append(token)
    return words, numbers, signs


def _letters_of_note(text: str) -> tuple[int, int]:
    """How many capitals, and how many characters beyond ASCII. Nearly all texts are ASCII and take the quick way."""
    if text.isascii():
        return len(text) - len(text.encode().translate(None, _CAPITALS)), 0
    return sum(map(str.isupper, text)), sum(c > "\x7f" for c in text)


def _turns(query: Query) -> tuple[str, int, int]:
    """The last user turn, the characters before it, and those of system turns."""
    messages = query.messages
    if len(messages) == 1:
        return messages[0].content, 0, 0
    last = next((m for m in reversed(messages) if m.role == "user"), None)
    system = sum(len(m.content) for m in messages if m.role in ("system", "developer"))
    everything = sum(len(m.content) for m in messages)
    turn = last.content if last else ""
    return turn, everything - system - len(turn), system


def _task(words: Sequence[str], signs: Sequence[str]) -> str:
    """Groups of keywords and signs present, in a fixed order, at most three; empty if there are none."""
    found = {_WORD_TO_GROUP[w] for w in words if w in _WORD_TO_GROUP}
    for sign in signs:
        if sign in _SIGN_TO_GROUP:
            found.add(_SIGN_TO_GROUP[sign])
    if len(found) < 2:
        return found.pop() if found else ""
    found.discard("greet")  # politeness says nothing of the task
    return "+".join(sorted(found, key=_RANK.__getitem__)[:3])


def number_shapes(numbers: Sequence[str]) -> list[str]:
    """How the numbers look: how many, how long, how large, in order or not, and what their last digits add up to."""
    if not numbers:
        return []
    lengths = [len(n) for n in numbers]
    sized = list(zip(lengths, numbers, strict=True))
    ranked = sorted(sized)
    (short, low), (long, top) = ranked[0], ranked[-1]
    shapes = [
        f"numbers:{min(len(numbers), 12)}",
        f"digits:{min(sum(lengths), 24)}",
        f"lengths:{'.'.join([str(length) for length, _ in ranked[-4:]])}",
        f"top:{top[0]}e{min(long, 9)}",
        f"low:{low[:2]}e{min(short, 9)}",
    ]
    if len(numbers) > 1:
        falls = sum(map(gt, sized, sized[1:]))
        a, b = numbers[0], numbers[1]
        shapes += (
            f"falls:{min(falls, 8)}",
            f"first:{numbers.index(top)}.{numbers.index(low)}" if len(numbers) < 9 else "first:many",
            f"tails:{int(a[-1]) + int(b[-1])}",
            f"gap:{int(a[-1]) - int(b[-1])}",
            f"heads:{a[0]}.{b[0]}.{min(lengths[0], 4)}{min(lengths[1], 4)}",
        )
    return shapes


def word_shapes(word: str, tokens: Sequence[str]) -> list[str]:
    """Shapes of a content word: its length, distinct letters, and count of a letter that the query names."""
    letters = set(word)
    most = max(map(word.count, letters))
    shapes = [
        f"rare:{min(len(word), 20)}",
        f"spread:{min(len(word), 12)}.{min(len(letters), 12)}",
        f"repeat:{min(len(word), 12)}.{min(most, 8)}",
    ]
    for letter in tokens:
        if len(letter) == 1 and letter != "a" and letter.isalpha():
            shapes.append("asked" + f":{min(len(word), 12)}.{min(word.count(letter), 8)}")  # saved routers name it so
            break
    return shapes


def rows_by_text(texts: Sequence[str]) -> dict[str, list[int]]:
    """Rows of each distinct text, in the order of the first."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(text, []).append(row)
    return rows
