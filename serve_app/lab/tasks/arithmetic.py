"""Addition, subtraction and multiplication of two whole numbers; harder means longer numbers."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

_OPERANDS = {
    1: ((0, 9), (0, 9)),
    2: ((10, 99), (0, 9)),
    3: ((10, 49), (10, 49)),
    4: ((10, 99), (10, 99)),
    5: ((100, 499), (10, 99)),
}
"""Bounds (inclusive) of the two operands of a sum or a difference, by difficulty."""

_FACTORS = {
    1: ((0, 5), (0, 9)),
    2: ((2, 9), (2, 9)),
    3: ((10, 19), (2, 9)),
    4: ((20, 49), (2, 9)),
    5: ((50, 99), (3, 9)),
}
"""Bounds (inclusive) of the two factors of a product, by difficulty."""

_ADD = (
    "what is {a} + {b}?",
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} =",
    "add {a} and {b}",
    "what is {a} plus {b}?",
    "how much is {a} + {b}?",
    "what is the sum of {a} and {b}?",
)
_SUBTRACT = (
    "what is {a} - {b}?",
    "{a} - {b}",
    "{a}-{b}",
    "{a} - {b} =",
    "subtract {b} from {a}",
    "what is {a} minus {b}?",
    "how much is {a} - {b}?",
    "take {b} away from {a}",
)
_MULTIPLY = (
    "what is {a} * {b}?",
    "{a} * {b}",
    "{a}*{b}",
    "{a} * {b} =",
    "multiply {a} by {b}",
    "what is {a} times {b}?",
    "how much is {a} * {b}?",
    "what is the product of {a} and {b}?",
)


class Add(Task):
    """`what is 12 + 30?` gives 42."""

    name = "add"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Operands of one to three digits, in either order."""
        a, b = (rng.randint(*bounds) for bounds in _OPERANDS[difficulty])
        if rng.random() < 0.5:
            a, b = b, a
        return rng.choice(_ADD).format(a=a, b=b), str(a + b)


class Subtract(Task):
    """`what is 42 - 30?` gives 12; the result is never negative."""

    name = "subtract"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Operands of one to three digits, the larger first."""
        a, b = (rng.randint(*bounds) for bounds in _OPERANDS[difficulty])
        a, b = max(a, b), min(a, b)
        return rng.choice(_SUBTRACT).format(a=a, b=b), str(a - b)


class Multiply(Task):
    """`what is 12 * 3?` gives 36."""

    name = "multiply"
    small = True

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """At most two digits by one digit, in either order."""
        a, b = (rng.randint(*bounds) for bounds in _FACTORS[difficulty])
        if rng.random() < 0.5:
            a, b = b, a
        return rng.choice(_MULTIPLY).format(a=a, b=b), str(a * b)
