"""Numbers that tell how hard a question is to reason through, read off its text in microseconds.

Where `features` guesses the task, these say how much there is to keep apart within one: how many quantities and how
large, relations between them, new words, names. Nothing is learned here.
"""

import re
from collections.abc import Sequence
from math import log1p

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SURFACE = (
    "chars", "words", "quantities", "sentences", "questions", "commas", "largest", "size", "distinct_words",
    "word_length", "percents", "amounts", "multiples", "rates", "relations", "decimals", "capitals",
)  # fmt: skip
"""Names of the columns of `surface`, in order."""
_TOKEN = re.compile(r"\d[\d,.]*|[A-Za-z]+|[^\sA-Za-z\d]")
_READ = 8_000
"""Characters that are read word by word, the last ones; the length counts them all."""
_LARGEST = 1e15
_MULTIPLES = frozenset(["half", "twice", "third", "quarter", "double", "triple", "times"])
_RATES = frozenset(["each", "every", "per"])
_RELATIONS = frozenset(["if", "then", "than", "more", "less", "remaining", "rest", "total"])


def surface(texts: Sequence[str]) -> Floats:
    """One row a text, shape [len(texts), len(SURFACE)]."""
    return np.array([_read(text) for text in texts], dtype=np.float64).reshape(-1, len(SURFACE))


def _read(text: str) -> tuple[float, ...]:
    part = text[-_READ:]
    tokens = _TOKEN.findall(part)
    words = [t.lower() for t in tokens if t[0].isalpha()]
    quantities = [t.rstrip(".,") for t in tokens if t[0].isdecimal()]
    sizes = [log1p(_value(q)) for q in quantities]
    count = len(words) or 1
    return (
        log1p(len(text)),
        log1p(len(words)),
        log1p(len(quantities)),
        log1p(part.count(".")),
        log1p(part.count("?")),
        log1p(part.count(",")),
        max(sizes, default=0.0),
        sum(sizes) / (len(sizes) or 1),
        len(set(words)) / count,
        sum(map(len, words)) / count,
        log1p(part.count("%")),
        log1p(part.count("$")),
        log1p(sum(w in _MULTIPLES for w in words)),
        log1p(sum(w in _RATES for w in words)),
        log1p(sum(w in _RELATIONS for w in words)),
        log1p(sum("." in q for q in quantities)),
        log1p(sum(t[0].isupper() for t in tokens)),
    )


def _value(quantity: str) -> float:
    """What the digits say; dots beyond the first and commas only part them."""
    whole, _, rest = quantity.replace(",", "").partition(".")
    return min(float(f"{whole[:16] or 0}.{rest.replace('.', '')[:6] or 0}"), _LARGEST)
