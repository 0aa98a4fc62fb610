"""The letter that an answer to a multiple-choice question picks, as in MMLU (Hendrycks et al. 2021)."""

import re
from collections.abc import Mapping
from typing import Any

from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.base import ReferenceMetric

_WORDS = re.compile(r"(?:^|[.!?:]\s+|\n\s*)A(?=\s+[a-z])|\bI(?=\s+[a-z])")
"""Capitals that are words and pick nothing: the article that begins a sentence, and I."""


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
            rf"\b(?i:answer\b(?:\s+(?:is|was|would\s+be|must\s+be))?(?:\s+(?:option|choice))?)\s*[:=]?{open_}"
            rf"(?:({one})(?![\w'’])|((?i:{one}))(?=[)\]}}*.,;$]|\s*$))"
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
        if whole := self._whole.fullmatch(text):
            return str(whole[1]).upper()
        if start := self._start.match(text):
            return str(start[1] or start[2])
        if told := self._told.findall(text):
            capital, small = told[-1]
            return str(capital or small).upper()
        alone = {str(letter) for letter in self._alone.findall(_WORDS.sub(" ", text))}
        return alone.pop() if len(alone) == 1 else None
