"""Arithmetic: sums, differences and products of two numbers, short expressions, and several steps on one number."""

from operator import add, mul, sub
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


def _phrases(sign: str, command: str, word: str, other: str) -> tuple[str, ...]:
    symbols = ("what is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "how much is {a} + {b}?")
    *first, last = (phrase.replace("+", sign) for phrase in symbols)
    return (*first, command, f"what is {{a}} {word} {{b}}?", last, other)


class _Binary(Task):
    """An operation on two numbers, the operands in either order unless `larger_first`."""

    operands = _OPERANDS
    larger_first = False
    phrases: tuple[str, ...]
    result: "staticmethod[[int, int], int]"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Operands within the bounds of the difficulty."""
        a, b = (rng.randint(*bounds) for bounds in self.operands[difficulty])
        if self.larger_first:
            a, b = max(a, b), min(a, b)
        elif rng.random() < 0.5:
            a, b = b, a
        return rng.choice(self.phrases).format(a=a, b=b), str(self.result(a, b))


class Add(_Binary):
    """`what is 12 + 30?` → 42; operands of one to three digits."""

    name = "add"
    phrases = _phrases("+", "add {a} and {b}", "plus", "what is the sum of {a} and {b}?")
    result = staticmethod(add)


class Subtract(_Binary):
    """`what is 42 - 30?` → 12; operands of one to three digits, the result never negative."""

    name = "subtract"
    larger_first = True
    phrases = _phrases("-", "subtract {b} from {a}", "minus", "take {b} away from {a}")
    result = staticmethod(sub)


class Multiply(_Binary):
    """`what is 12 * 3?` → 36; at most two digits by one digit."""

    name = "multiply"
    small = True
    operands = _FACTORS
    phrases = _phrases("*", "multiply {a} by {b}", "times", "what is the product of {a} and {b}?")
    result = staticmethod(mul)


_PHRASES = ("what is {e}?", "{e}", "{e} =", "calculate {e}", "evaluate {e}", "what is the value of {e}?")

_SHAPES = {
    1: ("{a} + {b} + {c}",),
    2: ("{a} + {b} - {c}", "{a} - {b} + {c}"),
    3: ("{p} * {q} + {c}", "{c} + {p} * {q}"),
    4: ("{a} * {b} + {c}", "{a} + {b} * {c}", "{a} * {b} - {c}"),
    5: ("({a} + {b}) * {c}", "{a} * ({b} + {c})"),
}
"""Shapes by difficulty; a to c are 1 to 9, p and q are 2 to 5."""


class Expression(Task):
    """`what is 3 + 4 * 2?` → 11; results are never negative."""

    name = "expression"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Draw operands until the value is not negative."""
        shape = rng.choice(_SHAPES[difficulty])
        value = -1
        while value < 0:
            a, b, c = (rng.randint(1, 9) for _ in range(3))
            p, q = rng.randint(2, 5), rng.randint(2, 5)
            text = shape.format(a=a, b=b, c=c, p=p, q=q)
            value = evaluate(text)
        if rng.random() < 0.5:
            text = text.replace(" ", "")
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


_STEP_SHAPES = {1: (1, False), 2: (2, False), 3: (2, True), 4: (3, False), 5: (3, True)}
"""(how many steps, whether the number is doubled once), by difficulty."""

_FRAMES = (
    ("start with {x}, {s}", ", "),
    ("take {x}, {s}", ", then "),
    ("take {x}. {s}. what is it?", ". "),
    ("start with {x}. {s}.", ". "),
)


class Steps(Task):
    """`take 5, add 3, then double it` → 16; the running number never falls below zero."""

    name = "steps"
    small = True

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """One to three steps from a start of one digit."""
        count, doubling = _STEP_SHAPES[difficulty]
        start = rng.randint(1, 9)
        doubled_at = rng.randrange(count) if doubling else -1
        value, steps = start, []
        for index in range(count):
            if index == doubled_at:
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
