"""Tasks over a list of numbers: putting it in order, and finding its largest or smallest."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

_SORT_SHAPES = {1: (3, 9), 2: (4, 9), 3: (5, 9), 4: (4, 99), 5: (5, 99)}
"""(how many numbers, the largest allowed), by difficulty."""

_ASCENDING = (
    "sort {n}",
    "sort the numbers {n}",
    "put {n} in order",
    "sort {n} from small to large",
    "sort {n} in ascending order",
)
_DESCENDING = ("sort {n} from large to small", "sort {n} in descending order")

_LIST_SHAPES = {1: (3, 0, 9), 2: (3, 10, 99), 3: (5, 10, 99), 4: (3, 100, 999), 5: (5, 100, 999)}
"""(how many numbers, smallest allowed, largest allowed), by difficulty."""

_EXTREME = (
    "what is the {w} of {n}?",
    "{w} of {n}",
    "find the {w} number: {n}",
    "which is the {w} of {n}?",
    "what is the {w} number in {n}?",
)
_PAIR = ("which is {w}, {a} or {b}?", "which number is {w}: {a} or {b}?")
_PAIR_SHARE = 0.25


class Sort(Task):
    """`sort 9 3 5 1` gives `1 3 5 9`."""

    name = "sort"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Three to five numbers; about a quarter of the queries ask for descending order."""
        count, top = _SORT_SHAPES[difficulty]
        numbers = [rng.randint(0, top) for _ in range(count)]
        descending = rng.random() < 0.25
        phrase = rng.choice(_DESCENDING if descending else _ASCENDING)
        ordered = sorted(numbers, reverse=descending)
        return phrase.format(n=_spaced(numbers)), _spaced(ordered)


class Largest(Task):
    """`what is the largest of 3 9 4?` gives 9; asks for the smallest as well, and compares two."""

    name = "largest"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Numbers of the length the difficulty sets, all different."""
        count, low, high = _LIST_SHAPES[difficulty]
        top = rng.random() < 0.5
        pick = max if top else min
        if rng.random() < _PAIR_SHARE:
            a, b = rng.sample(range(low, high + 1), 2)
            word = rng.choice(("larger", "bigger") if top else ("smaller",))
            return rng.choice(_PAIR).format(w=word, a=a, b=b), str(pick(a, b))
        numbers = rng.sample(range(low, high + 1), count)
        word = rng.choice(("largest", "biggest") if top else ("smallest",))
        return rng.choice(_EXTREME).format(w=word, n=_spaced(numbers)), str(pick(numbers))


def _spaced(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))
