"""Arithmetic: sums, differences and products of two numbers, short expressions, and several steps on one number."""

from collections.abc import Mapping
from operator import add, mul, sub
from random import Random
from typing import ClassVar

from serve_app.lab.tasks.base import Task

_DIGITS = {1: (0, 9), 2: (10, 99), 3: (100, 999)}
"""Bounds (inclusive) of a number of that many digits."""

_OPERANDS = {
    "1 and 1 digits": (1, (_DIGITS[1], _DIGITS[1])),
    "2 and 1 digits": (2, (_DIGITS[2], _DIGITS[1])),
    "2 and 2 digits": (3, (_DIGITS[2], _DIGITS[2])),
    "3 and 1 digits": (4, (_DIGITS[3], _DIGITS[1])),
    "3 and 2 digits": (4, (_DIGITS[3], _DIGITS[2])),
    "3 and 3 digits": (5, (_DIGITS[3], _DIGITS[3])),
}
"""Difficulty and bounds (inclusive) of the two operands of a sum or a difference, by size."""

_FACTORS = {
    "1 and 1 digits": (2, (_DIGITS[1], _DIGITS[1])),
    "10 to 19 and 1 digit": (3, ((10, 19), _DIGITS[1])),
    "20 to 49 and 1 digit": (4, ((20, 49), _DIGITS[1])),
    "50 to 99 and 1 digit": (5, ((50, 99), _DIGITS[1])),
}
"""Difficulty and bounds (inclusive) of the two factors of a product, by size."""

_NEGATIVE_SHARE = 0.2
"""Share of differences that take the larger number from the smaller one."""

_SYMBOLS = (
    *("what is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=", "{a} + {b} = ?", "{a} + {b}?"),
    *("how much is {a} + {b}?", "calculate {a} + {b}", "compute {a} + {b}", "solve {a} + {b}", "what is {a}+{b}?"),
    *("what does {a} + {b} equal?", "calculate {a}+{b}", "work out {a} + {b}", "answer {a} + {b}"),
)
_WORDED = (
    *("what is {a} {w} {b}?", "{a} {w} {b}", "how much is {a} {w} {b}?", "calculate {a} {w} {b}"),
    *("what does {a} {w} {b} equal?", "{a} {w} {b} is", "{a} {w} {b} equals", "{a} {w} {b}?"),
)


def _phrases(signs: tuple[str, ...], words: tuple[str, ...], commands: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Phrases with a sign, with a word, and commands: groups that are drawn alike."""
    return (
        tuple(phrase.replace("+", sign) for sign in signs for phrase in _SYMBOLS),
        tuple(phrase.replace("{w}", word) for word in words for phrase in _WORDED),
        commands,
    )


class _Binary(Task):
    """An operation on two numbers, the operands in either order unless `larger_first`."""

    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _) in _OPERANDS.items()}
    operands: Mapping[str, tuple[int, tuple[tuple[int, int], tuple[int, int]]]] = _OPERANDS
    larger_first = False
    phrases: tuple[tuple[str, ...], ...]
    result: "staticmethod[[int, int], int]"

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Operands within the bounds of the size."""
        a, b = (rng.randint(*bounds) for bounds in self.operands[size][1])
        if self.larger_first:
            a, b = max(a, b), min(a, b)
        if rng.random() < (_NEGATIVE_SHARE if self.larger_first else 0.5):
            a, b = b, a
        phrase = rng.choice(self.phrases[0 if rng.random() < 0.5 else rng.randint(1, 2)])
        return phrase.format(a=a, b=b), str(self.result(a, b))


class Add(_Binary):
    """`what is 12 + 30?` → 42; operands of one to three digits."""

    name = "add"
    phrases = _phrases(
        ("+",),
        ("plus", "plus", "added to"),
        (
            *("add {a} and {b}", "add {a} to {b}", "what is the sum of {a} and {b}?", "sum of {a} and {b}"),
            *("sum {a} and {b}", "the sum of {a} and {b}", "add {a} {b}", "add up {a} and {b}", "add {a} + {b}"),
            *("what do {a} and {b} add up to?", "add together {a} and {b}", "find the sum of {a} and {b}"),
        ),
    )
    result = staticmethod(add)


class Subtract(_Binary):
    """`what is 42 - 30?` → 12; operands of one to three digits, in either order."""

    name = "subtract"
    larger_first = True
    phrases = _phrases(
        ("-",),
        ("minus", "less"),
        (
            *("subtract {b} from {a}", "take {b} away from {a}", "take {b} from {a}", "{a} take away {b}"),
            *("what is the difference of {a} and {b}?", "{b} subtracted from {a}", "what is {b} less than {a}?"),
            *("what is left if you take {b} from {a}?", "what do you get if you subtract {b} from {a}?"),
        ),
    )
    result = staticmethod(sub)


class Multiply(_Binary):
    """`what is 12 * 3?` → 36; at most two digits by one digit."""

    name = "multiply"
    small = True
    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _) in _FACTORS.items()}
    operands = _FACTORS
    phrases = _phrases(
        ("*", "*", "x"),
        ("times", "multiplied by"),
        (
            *("multiply {a} by {b}", "multiply {a} and {b}", "what is the product of {a} and {b}?", "{a} by {b}"),
            *("product of {a} and {b}", "the product of {a} and {b}", "find the product of {a} and {b}"),
            *("multiply {a} with {b}", "multiply {a} * {b}"),
        ),
    )
    result = staticmethod(mul)


_PHRASES = (
    *("what is {e}?", "{e}", "{e} =", "calculate {e}", "evaluate {e}", "what is the value of {e}?", "compute {e}"),
    *("how much is {e}?", "solve {e}", "work out {e}", "what does {e} equal?", "{e}?", "{e} = ?"),
    *("{e}=", "what is {e} =?", "answer {e}"),
)

_SHAPES = {
    "a + b + c": (1, ("{a} + {b} + {c}",)),
    "a + b - c": (2, ("{a} + {b} - {c}", "{a} - {b} + {c}")),
    "a * b + c up to 5 * 5": (3, ("{p} * {q} + {c}", "{c} + {p} * {q}")),
    "a * b + c": (4, ("{a} * {b} + {c}", "{a} + {b} * {c}", "{a} * {b} - {c}")),
    "(a + b) * c": (5, ("({a} + {b}) * {c}", "{a} * ({b} + {c})")),
}
"""Difficulty and shapes by size; a to c are 0 to 9, p and q are 0 to 5."""


class Expression(Task):
    """`what is 3 + 4 * 2?` → 11; results are never negative."""

    name = "expression"
    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _) in _SHAPES.items()}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Draw operands until the value is not negative."""
        shape = rng.choice(_SHAPES[size][1])
        value = -1
        while value < 0:
            a, b, c = (rng.randint(0, 9) for _ in range(3))
            p, q = rng.randint(0, 5), rng.randint(0, 5)
            text = shape.format(a=a, b=b, c=c, p=p, q=q)
            value = evaluate(text)
        if rng.random() < 0.4:
            text = text.replace(" ", "")
        if rng.random() < 0.1:
            text = text.replace("*", "x")
        return rng.choice(_PHRASES).format(e=text), str(value)


def evaluate(text: str) -> int:
    """Value of an expression of one-digit numbers with +, -, * and parentheses."""
    tokens = [symbol for symbol in text if symbol != " "]
    value = _sum(tokens)
    if tokens:
        raise ValueError(f"expression {text!r} is malformed near {tokens[0]!r}")
    return value


def _sum(tokens: list[str]) -> int:
    value = _product(tokens)
    while tokens and tokens[0] in "+-":
        sign = 1 if tokens.pop(0) == "+" else -1
        value += sign * _product(tokens)
    return value


def _product(tokens: list[str]) -> int:
    value = _atom(tokens)
    while tokens and tokens[0] == "*":
        tokens.pop(0)
        value *= _atom(tokens)
    return value


def _atom(tokens: list[str]) -> int:
    symbol = tokens.pop(0)
    if symbol != "(":
        return int(symbol)
    value = _sum(tokens)
    tokens.pop(0)
    return value


_STEP_SHAPES = {
    "1 step": (1, 1, False),
    "2 steps": (2, 2, False),
    "2 steps, doubling": (3, 2, True),
    "3 steps": (4, 3, False),
    "3 steps, doubling": (5, 3, True),
}
"""(difficulty, how many steps, whether the number is doubled), by size."""

_LONE_DOUBLING_SHARE = 0.25
"""Share of single steps that double the number."""

_FRAMES = (
    *(("start with {x}, {s}", ", "), ("take {x}, {s}", ", then "), ("take {x}. {s}. what is it?", ". ")),
    *(("start with {x}. {s}.", ". "), ("take {x}, {s}", ", "), ("start with {x}, {s}", " and ")),
    *(("take {x}. {s}. what do you get?", ". "), ("start with {x}, {s}. what is the result?", ", then ")),
    *(("start with {x}, then {s}", ", then "), ("take {x}, {s}. what do you get?", ", "), ("take {x}, {s}", " and ")),
    *(("take {x}, then {s}", ", then "), ("start with {x} and {s}", " and ")),
)


class Steps(Task):
    """`take 5, add 3, then double it` → 16; the running number never falls below zero."""

    name = "steps"
    small = True
    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _, _) in _STEP_SHAPES.items()}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """One to three steps from a start of one digit."""
        _, count, doubling = _STEP_SHAPES[size]
        start = rng.randint(1, 9)
        doubles = doubling or (count == 1 and rng.random() < _LONE_DOUBLING_SHARE)
        doubled = {rng.randrange(count), rng.randrange(count)} if doubles else set()
        value, steps = start, []
        for index in range(count):
            if index in doubled:
                value *= 2
                steps.append("double it")
                continue
            change = rng.randint(1, 9)
            if change <= value and rng.random() < 0.5:
                value -= change
                steps.append(f"subtract {change}")
            else:
                value += change
                steps.append(f"add {change}")
        frame, joint = rng.choice(_FRAMES)
        return frame.format(x=start, s=joint.join(steps)), str(value)
