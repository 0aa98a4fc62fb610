"""Roman numerals, read and written, up to 399."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

_RANGES = {1: (1, 10), 2: (11, 20), 3: (21, 49), 4: (50, 100), 5: (101, 399)}
"""Bounds (inclusive) of the number, by difficulty."""

_READ = ("what number is {r}?", "convert {r} to a number", "write {r} in digits", "roman numeral {r} in digits")
_WRITE = ("write {n} in roman numerals", "convert {n} to roman", "what is {n} in roman numerals?")

_SIGNS = (
    (100, "c"),
    (90, "xc"),
    (50, "l"),
    (40, "xl"),
    (10, "x"),
    (9, "ix"),
    (5, "v"),
    (4, "iv"),
    (1, "i"),
)


class Roman(Task):
    """`what number is xiv?` gives 14, `write 14 in roman numerals` gives xiv."""

    name = "roman"
    small = True

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Reading and writing in equal shares."""
        number = rng.randint(*_RANGES[difficulty])
        numeral = to_roman(number)
        if rng.random() < 0.5:
            return rng.choice(_READ).format(r=numeral), str(number)
        return rng.choice(_WRITE).format(n=number), numeral


def to_roman(number: int) -> str:
    """Lower-case Roman numeral of 1 to 399."""
    numeral = ""
    for value, sign in _SIGNS:
        while number >= value:
            numeral += sign
            number -= value
    return numeral
