"""Tasks over a list of numbers: putting it in order, and finding its largest or smallest.

Roman numerals, read and written, up to 399.

Conversion of whole amounts between units.
"""

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
    """`what is the largest of 3 9 4?` gives 9; the smallest as well, and comparisons of two."""

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


_RANGES = {1: (1, 10), 2: (11, 20), 3: (21, 49), 4: (50, 100), 5: (101, 399)}
"""Bounds (inclusive) of the number, by difficulty."""

_READ = ("what number is {r}?", "convert {r} to a number", "write {r} in digits", "roman numeral {r} in digits")
_WRITE = ("write {n} in roman numerals", "convert {n} to roman", "what is {n} in roman numerals?")

_SIGNS = ((100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))


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


_UNITS = {
    1: (("cm", "mm", 10), ("m", "cm", 100), ("kg", "g", 1000), ("km", "m", 1000)),
    2: (("weeks", "days", 7),),
    3: (("feet", "inches", 12), ("years", "months", 12), ("dozen", "pieces", 12)),
    4: (("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24)),
    5: (("weeks", "days", 7), ("feet", "inches", 12), ("years", "months", 12), ("hours", "minutes", 60)),
}
"""(large unit, small unit, how many of the small one make the large one), by difficulty."""

_HIGHEST = {1: 99, 2: 20, 3: 20, 4: 20, 5: 9}
"""The largest amount in a query, by difficulty."""

_PHRASES = ("how many {s} in {n} {b}?", "how many {s} are {n} {b}?", "convert {n} {b} to {s}", "{n} {b} in {s}")
_MIXED = ("how many {s} in {n} {b} and {r} {s}?", "convert {n} {b} and {r} {s} to {s}", "{n} {b} and {r} {s} in {s}")


class Units(Task):
    """`how many minutes in 3 hours?` gives 180; the hardest level mixes two units."""

    name = "units"
    small = True

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Amounts of at least 2; a mixed rest is always smaller than one large unit."""
        big, small, factor = rng.choice(_UNITS[difficulty])
        amount = rng.randint(2, _HIGHEST[difficulty])
        if difficulty < 5:
            return rng.choice(_PHRASES).format(b=big, s=small, n=amount), str(amount * factor)
        rest = rng.randint(2, factor - 1)
        return rng.choice(_MIXED).format(b=big, s=small, n=amount, r=rest), str(amount * factor + rest)
