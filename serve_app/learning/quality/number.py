"""The number that an answer ends with, as graders of GSM8K read it."""

import re
from decimal import Decimal

from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.base import ReferenceMetric

_NUMBER = (
    r"(?:(?<![\w)\]}%])(?P<minus>[-\u2212]))?"  # a minus, no hyphen and no subtraction
    r"(?:[$€£¥](?P<inner>[-\u2212])?)?"
    r"(?P<digits>(?>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+))"
)
_ANY = re.compile(_NUMBER)
_MARKED = re.compile(r"####[ \t]*" + _NUMBER + r"(?![.):]\s*[^\W\d_])")
"""GSM8K's own mark of the final answer; "#### 1. First step" is a heading, not an answer."""


class LastNumber(ReferenceMetric):
    """1 if the answer ends with the reference's number, else 0 (Cobbe et al. 2021; see `last_number`)."""

    name = "number"

    def prepare(self, dataset: Dataset, row: int, reference: str) -> Decimal:
        """The reference's own last number: a whole GSM8K solution will do."""
        number = last_number(reference)
        if number is None:
            raise ValueError(f"the reference {reference[:80]!r} holds no number, which the metric 'number' compares")
        return number

    def grade(self, prepared: Decimal, answer: str) -> float | None:
        """1 or 0; None if the answer holds no number."""
        number = last_number(answer)
        return None if number is None else float(number == prepared)


def last_number(text: str) -> Decimal | None:
    """The number after the last `####` that one follows at once, otherwise the last in the text; None without any.

    Reads thousands with commas, decimals, a leading minus and a currency sign; units and a final full stop may follow.
    Values are compared, not their writing: 18, 18.00 and $18 are equal. No fraction, power or spelt number is read.
    """
    found = None
    for found in _MARKED.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if found is None:
        for found in _ANY.finditer(text):  # noqa: B007
            pass
    if found is None:
        return None
    number = Decimal(found["digits"].replace(",", ""))
    return -number if (found["minus"] or found["inner"]) else number
