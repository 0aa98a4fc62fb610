"""Exact match of an answer with the reference, after the normalisation of SQuAD's evaluation."""

import string
import unicodedata
from collections.abc import Mapping
from typing import Any

from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.base import ReferenceMetric

_ARTICLES = frozenset({"a", "an", "the"})


class ExactMatch(ReferenceMetric):
    """1 if answer and reference are equal once normalised (see `normalise`), else 0 (Rajpurkar et al. 2016, 6.1).

    Where either is nothing but articles and punctuation ("A", "+"), both are compared as they stand, case and
    surrounding white space aside. Punctuation goes, so that "-5" equals "5": take `number` for numbers, or
    `normalise=False`, which leaves only Unicode's composed form and strips surrounding white space.
    """

    name = "exact"

    def __init__(self, normalise: bool = True) -> None:
        self.normalise = normalise

    @property
    def options(self) -> Mapping[str, Any]:
        """Whether texts are normalised."""
        return {"normalise": self.normalise}

    def prepare(self, dataset: Dataset, row: int, reference: str) -> str:
        """The reference itself."""
        return reference

    def grade(self, prepared: str, answer: str) -> float:
        """1 or 0."""
        if self.normalise:
            return float(matches(prepared, answer))
        return float(unicodedata.normalize("NFC", prepared).strip() == unicodedata.normalize("NFC", answer).strip())


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles (a, an, the), single spaces.

    Beyond ASCII, where SQuAD says nothing: Unicode's composed form (NFC), and its punctuation (categories P) goes too.
    """
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    kept = "".join(c for c in lowered if not _is_punctuation(c))
    words = (word for word in unicodedata.normalize("NFC", kept).split() if word not in _ARTICLES)
    return " ".join(words)


def matches(a: str, b: str) -> bool:
    """Whether two texts are equal once normalised; as they stand where nothing of one would be left."""
    one, other = normalise(a), normalise(b)
    if one and other:
        return one == other
    return a.strip().casefold() == b.strip().casefold()


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
