"""Graders of short answers against a reference: exact match, the chosen letter, the last number, the lab's tasks."""

import re
import string
import unicodedata
from abc import abstractmethod
from decimal import Decimal
from typing import Any

from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.grading.base import ReferenceMetric
from serve_app.lab.tasks import TASKS, Item

_ARTICLES = frozenset({"a", "an", "the"})


class ExactMatch(ReferenceMetric):
    """1 if answer and reference are equal once normalised (see `normalise`), else 0 (Rajpurkar et al. 2016, 6.1).

    Where either is nothing but articles and punctuation ("A", "+"), both are compared as they stand, ignoring case
    and surrounding white space. Punctuation goes, so that "-5" equals "5": take `number` for numbers, or
    `normalise=False`, which leaves only Unicode's composed form and strips surrounding white space.
    """

    name = "exact"
    set_by = ("normalise",)

    def __init__(self, normalise: bool = True) -> None:
        self.normalise = normalise

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
    kept = "".join(c for c in lowered if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    words = (word for word in unicodedata.normalize("NFC", kept).split() if word not in _ARTICLES)
    return " ".join(words)


def matches(a: str, b: str) -> bool:
    """Whether two texts are equal once normalised; as they stand where nothing of one would be left."""
    one, other = normalise(a), normalise(b)
    if one and other:
        return one == other
    return a.strip().casefold() == b.strip().casefold()


class _Read(ReferenceMetric):
    """1 if the same is read from the answer as from the reference, else 0; None if nothing is read from the answer."""

    missing: str
    """What a reference lacks from which nothing is read."""

    @abstractmethod
    def read(self, text: str) -> Any:
        """What counts of a text; None if nothing does."""

    def prepare(self, dataset: Dataset, row: int, reference: str) -> Any:
        """What is read from the reference."""
        found = self.read(reference)
        if found is None:
            raise ValueError(f"the reference {reference[:80]!r} {self.missing}")
        return found

    def grade(self, prepared: Any, answer: str) -> float | None:
        """1 or 0; None if nothing is read."""
        found = self.read(answer)
        return None if found is None else float(found == prepared)


_WORDS = re.compile(r"(?:^|[.!?:]\s+|\n\s*)A(?=\s+[a-z])|\bI(?=\s+[a-z])")
"""Capitals that are words and pick nothing: the article that begins a sentence, and I."""


class Choice(_Read):
    """1 if the answer picks the reference's letter, else 0, as in MMLU (Hendrycks et al. 2021), out of `letters`.

    Read in this order: a letter alone or set off by punctuation where the answer begins ("B", "(B)", "**B.** Because");
    the letter of the last "answer is ..." or "Answer: ..."; the only letter that stands alone in the text, in capitals.
    """

    name = "choice"
    set_by = ("letters",)

    def __init__(self, letters: str = "ABCD") -> None:
        if len(letters) < 2 or not letters.isascii() or not letters.isupper() or len(set(letters)) < len(letters):
            raise ConfigError(f"choice: letters {letters!r} must be two or more different capitals, as 'ABCD'")
        self.letters = letters
        self.missing = f"picks none of {letters}, as 'choice' needs"
        one = f"[{letters}]"
        open_, close = r"[\s*_`\"'(\[{$]*", r"[*_`\"')\]}$]*"
        self._whole = re.compile(rf"{open_}({one}){close}\s*\.?\s*", re.IGNORECASE)
        self._start = re.compile(rf"{open_}({one})(?:[*_`\"')\]}}$]+|[.:,])(?=[\s.:,*]|$)|{open_}({one})\s*\n")
        self._stated = re.compile(
            rf"\b(?i:answer\b(?:\s+(?:is|was|would\s+be|must\s+be))?(?:\s+(?:option|choice))?)\s*[:=]?{open_}"
            rf"(?:({one})(?![\w'’])|((?i:{one}))(?=[)\]}}*.,;$]|\s*$))"
        )
        self._alone = re.compile(rf"(?<![\w'’.-])({one})(?![\w'’-])")

    def read(self, text: str) -> str | None:
        """See `letter`."""
        return self.letter(text)

    def letter(self, text: str) -> str | None:
        """The letter picked, None if none is, or several without saying which."""
        if whole := self._whole.fullmatch(text):
            return str(whole[1]).upper()
        if start := self._start.match(text):
            return str(start[1] or start[2])
        if stated := self._stated.findall(text):
            capital, small = stated[-1]
            return str(capital or small).upper()
        alone = {str(letter) for letter in self._alone.findall(_WORDS.sub(" ", text))}
        return alone.pop() if len(alone) == 1 else None


_NUMBER = (
    r"(?:(?<![\w)\]}%])(?P<minus>[-\u2212]))?"  # a minus, no hyphen and no subtraction
    r"(?:[$€£¥](?P<inner>[-\u2212])?)?"
    r"(?P<digits>(?>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+))"
)
_ANY = re.compile(_NUMBER)
_MARKED = re.compile(r"####[ \t]*" + _NUMBER + r"(?![.):]\s*[^\W\d_])")
"""GSM8K's own mark of the final answer; "#### 1. First step" is a heading, not an answer."""


class LastNumber(_Read):
    """1 if the answer ends with the reference's number, else 0 (Cobbe et al. 2021; see `last_number`)."""

    name = "number"
    missing = "holds no number, which the metric 'number' compares"

    def read(self, text: str) -> Decimal | None:
        """The last number, of the reference as well: a whole GSM8K solution will do."""
        return last_number(text)


def last_number(text: str) -> Decimal | None:
    """The number after the last `####` that one follows at once, otherwise the last in the text; None without any.

    Reads thousands with commas, decimals, a leading minus and a currency sign; units and a final full stop may follow.
    Values are compared, not their writing: 18, 18.00 and $18 are equal. No fraction, power or spelt number is read.
    """
    every = list(_MARKED.finditer(text)) or list(_ANY.finditer(text))
    if not every:
        return None
    found = every[-1]
    number = Decimal(found["digits"].replace(",", ""))
    return -number if (found["minus"] or found["inner"]) else number


class LabGrader(ReferenceMetric):
    """The grade of a lab task's own grader: exact answers only. Groups are `task-difficulty`, as `add-3`."""

    name = "lab"

    def prepare(self, dataset: Dataset, row: int, reference: str) -> Item:
        """The row as the lab's item."""
        group = dataset.groups[row]
        task, _, difficulty = group.rpartition("-")
        if task not in TASKS or not difficulty.isdecimal():
            raise ValueError(f"group {group!r} is no lab task and difficulty, as 'add-3': take another metric")
        return Item(task, "", int(difficulty), dataset.queries[row].text, reference)

    def grade(self, prepared: Item, answer: str) -> float:
        """1 or 0."""
        return TASKS[prepared.task].grade(prepared, answer)
