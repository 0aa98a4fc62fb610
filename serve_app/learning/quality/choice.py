"""The letter that an answer to a multiple-choice question picks, as in MMLU (Hendrycks et al. 2021)."""

import re
from collections.abc import Mapping
from typing import Any

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.base import ReferenceMetric


class Choice(ReferenceMetric):
    """1 if the answer picks the reference's letter, else 0. `letters` are those there are to pick from.

    Read in this order: a letter alone or set off by punctuation where the answer begins ("B", "(B)", "**B.** Because");
    the letter of the last "answer is ..." or "Answer: ..."; the only letter that stands alone in the text, in capitals.
    """

    name = "choice"

    def __init__(self, letters: str = "ABCD") -> None:
        if len(letters) < 2 or not letters.isascii() or not letters.isupper() or len(set(letters)) < len(letters):
            raise ConfigError(f"choice: letters {letters!r} must be two or more different capitals, as 'ABCD'")
        self.letters = letters
        one = f"[{letters}]"
        open_, close = r"[\s*_`\"'(\[{$]*", r"[*_`\"')\]}$]*"
        self._whole = re.compile(rf"{open_}({one}){close}\s*\.?\s*", re.IGNORECASE)
        self._start = re.compile(rf"{open_}({one})(?:[*_`\"')\]}}$]+|[.:,])(?=[\s.:,*]|$)|{open_}({one})\s*\n")
        self._told = re.compile(
            rf"\banswer\b(?:\s+(?:is|was|would\s+be|must\s+be))?(?:\s+(?:option|choice))?\s*[:=]?{open_}({one})(?![\w'])",
            re.IGNORECASE,
        )
        self._alone = re.compile(rf"(?<![\w'’.-])({one})(?![\w'’-])")

    @property
    def options(self) -> Mapping[str, Any]:
        """The letters."""
        return {"letters": self.letters}

    def prepare(self, dataset: Dataset, row: int, reference: str) -> str:
        """The reference's letter."""
        letter = self.letter(reference)
        if letter is None:
            raise ValueError(f"the reference {reference[:80]!r} picks none of {self.letters}, as 'choice' needs")
        return letter

    def grade(self, prepared: str, answer: str) -> float | None:
        """1 or 0; None if the answer picks no letter."""
        letter = self.letter(answer)
        return None if letter is None else float(letter == prepared)

    def letter(self, text: str) -> str | None:
        """The letter picked, None if none is, or several without saying which."""
        for pattern in (self._whole, self._start):
            if found := pattern.fullmatch(text) if pattern is self._whole else pattern.match(text):
                return (found[1] or found[2]).upper() if pattern is self._start else found[1].upper()
        if told := self._told.findall(text):
            return str(told[-1]).upper()
        alone = {str(letter) for letter in self._alone.findall(text)}
        return alone.pop() if len(alone) == 1 else None
