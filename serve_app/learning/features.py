"""What can be read off a query in microseconds: lengths, digits, operators, keywords, a guess at the task.

Pure Python: for one query it beats numpy. Nothing is learned here; a router weighs what it finds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log1p

from serve_app.types import Query

_HEAD, _TAIL = 1500, 500
"""Characters of the last user turn that are read word by word; the lengths count it all."""
_TOKEN = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")
_OPERATORS = frozenset("+-*/^%=<>×÷−±√")
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
_SIGN_TO_GROUP = {"+": "add", "-": "subtract", "−": "subtract", "*": "multiply", "×": "multiply", "/": "divide"}

NUMERIC = (
    "chars", "words", "lines", "sentences", "numbers", "digits", "longest_number", "operators", "brackets",
    "longest_word", "word_length", "commas", "questions", "fences", "upper_share", "digit_share", "foreign_share",
    "turns", "history_chars", "system_chars", "tools",
)  # fmt: skip
"""Names of `Reading.numeric`, in order. Counts are log1p, shares lie in [0, 1]."""


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
    words = [t for t in tokens if t[0].isalpha()]
    numbers = [t for t in tokens if t[0].isdecimal()]
    signs = [t for t in tokens if t in _OPERATORS or t in "()"]
    brackets = sum(s in "()" for s in signs)
    chars = len(turn)
    scale = 1.0 / max(1, len(text))
    digits = sum(map(len, numbers))
    letters = sum(map(len, words))
    numeric = (
        log1p(chars),
        log1p(len(words)),
        log1p(turn.count("\n")),
        log1p(tokens.count(".")),
        log1p(len(numbers)),
        log1p(digits),
        log1p(max(map(len, numbers), default=0)),
        log1p(len(signs) - brackets),
        log1p(brackets),
        log1p(max(map(len, words), default=0)),
        letters / max(1, len(words)) / 10,
        log1p(tokens.count(",")),
        log1p(tokens.count("?")),
        log1p(turn.count("```")),
        sum(map(str.isupper, text)) * scale,
        digits * scale,
        0.0 if text.isascii() else sum(c > "\x7f" for c in text) * scale,
        log1p(len(query.messages)),
        log1p(before),
        log1p(system),
        log1p(len(query.tools)),
    )
    return Reading(numeric, _task(tokens, numbers), tuple(tokens), "".join(signs[:8]) if numbers else "")


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


def _task(tokens: list[str], numbers: list[str]) -> str:
    """Groups of keywords present, in a fixed order, at most three; signs count where there are numbers."""
    found = {_WORD_TO_GROUP[t] for t in tokens if t in _WORD_TO_GROUP}
    if numbers:
        found.update(_SIGN_TO_GROUP[t] for t in tokens if t in _SIGN_TO_GROUP)
    if len(found) > 1:
        found.discard("greet")  # politeness says nothing of the task
    return "+".join([g for g in _GROUPS if g in found][:3]) or ("numbers" if numbers else "other")


def number_shapes(numbers: Sequence[str]) -> list[str]:
    """How the numbers look: how many, how long, how large, in order or not, and what their last digits add up to."""
    if not numbers:
        return []
    lengths = [len(n) for n in numbers]
    sized = sorted(zip(lengths, numbers, strict=True))
    (short, low), (long, top) = sized[0], sized[-1]
    shapes = [
        f"numbers:{min(len(numbers), 12)}",
        f"digits:{min(sum(lengths), 24)}",
        f"lengths:{'.'.join(map(str, sorted(lengths)[-4:]))}",
        f"top:{top[0]}e{min(long, 9)}",
        f"low:{low[:2]}e{min(short, 9)}",
    ]
    if len(numbers) > 1:
        falls = sum((len(a), a) > (len(b), b) for a, b in pairwise(numbers))
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
    """How a word that is content looks: its length, its distinct letters, and how often a letter asked for is in it."""
    most = max(map(word.count, set(word)))
    shapes = [
        f"rare:{min(len(word), 20)}",
        f"spread:{min(len(word), 12)}.{min(len(set(word)), 12)}",
        f"repeat:{min(len(word), 12)}.{min(most, 8)}",
    ]
    asked = next((t for t in tokens if len(t) == 1 and t.isalpha() and t != "a"), None)
    if asked is not None:
        shapes.append(f"asked:{min(len(word), 12)}.{min(word.count(asked), 8)}")
    return shapes
