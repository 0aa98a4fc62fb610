"""Expressions of two or three operators with the usual precedence, such as 3+4*2."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

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
    """`what is 3 + 4 * 2?` gives 11; results are never negative."""

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
