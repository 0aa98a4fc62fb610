"""Tasks over a list of numbers: putting it in order, and finding its largest or smallest.

Roman numerals, read and written, up to 399.

Conversion of whole amounts between units.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import ClassVar

from serve_app.lab.tasks.base import Task, Turn

_ASCENDING = (
    *("sort {n}", "sort the numbers {n}", "put {n} in order", "sort {n} from small to large", "sort: {n}"),
    *("sort {n} in ascending order", "sort these numbers: {n}", "sort the numbers: {n}", "order {n}", "arrange {n}"),
    *("sort {n} from smallest to largest", "arrange {n} in order", "put these numbers in order: {n}", "sort this: {n}"),
    *("arrange {n} from smallest to largest", "sort these: {n}", "sort the list {n}", "put {n} in ascending order"),
    *("sort {n} from lowest to highest", "sort {n} ascending", "order these numbers: {n}", "sort numbers {n}"),
)
_DESCENDING = (
    *("sort {n} from large to small", "sort {n} in descending order", "sort {n} descending"),
    *("sort {n} from largest to smallest", "put {n} in descending order", "sort {n} from highest to lowest"),
)
_DESCENDING_SHARE = 0.2
_ONE_DIGIT_SHARE = 0.35
"""Share of lists with numbers of one digit alone."""

_EXTREME = (
    *("what is the {w} of {n}?", "{w} of {n}", "find the {w} number: {n}", "which is the {w} of {n}?"),
    *("what is the {w} number in {n}?", "find the {w} of {n}", "which number is the {w}: {n}?", "{w} of {n}?"),
    *("what is the {w} number of {n}?", "{w} number: {n}", "find the {w} number in {n}", "the {w} of {n}"),
    *("which is {w}: {n}?", "what is the {w}: {n}?", "what is the {w} number: {n}?", "{w} number in {n}"),
    *("which of {n} is the {w}?", "which of these is the {w}: {n}?", "which number is {w}: {n}?", "{w}: {n}"),
)
_PAIR = (
    *("which is {w}, {a} or {b}?", "which number is {w}: {a} or {b}?", "what is {w}, {a} or {b}?"),
    *("which is {w}: {a} or {b}?", "is {a} or {b} {w}?", "{w}: {a} or {b}?", "which one is {w}, {a} or {b}?"),
)
_PAIR_SHARE = 0.5
_TOPS = (9, 99, 99, 999)
"""The largest number allowed in a list, drawn alike."""


class Sort(Task):
    """`sort 9 3 5 1` gives `1 3 5 9`."""

    name = "sort"
    sizes: ClassVar[Mapping[str, int]] = {f"{count} numbers": level for level, count in enumerate(range(2, 7), start=1)}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Two to six numbers of 0 to 99; some queries ask for descending order. The answer has spaces alone."""
        top = 9 if rng.random() < _ONE_DIGIT_SHARE else 99
        numbers = [rng.randint(0, top) for _ in range(int(size.split()[0]))]
        descending = rng.random() < _DESCENDING_SHARE
        phrase = rng.choice(_DESCENDING if descending else _ASCENDING)
        ordered = sorted(numbers, reverse=descending)
        return phrase.format(n=_listed(rng, numbers)), _spaced(ordered)

    def conversation(self, rng: Random, size: str, plain: bool) -> Sequence[Turn]:
        """The plain form: numbers of 0 to 9 with spaces."""
        numbers = [rng.randint(0, 9) for _ in range(int(size.split()[0]))]
        return [(f"sort {_spaced(numbers)}", _spaced(sorted(numbers)))] if plain else ()


class Largest(Task):
    """`what is the largest of 3 9 4?` gives 9; the smallest as well, and comparisons of two."""

    name = "largest"
    sizes: ClassVar[Mapping[str, int]] = {
        f"{count} numbers": level for count, level in zip(range(2, 9), (1, 2, 2, 3, 4, 5, 5), strict=True)
    }

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Two to eight numbers of 0 to 999."""
        count, top = int(size.split()[0]), rng.choice(_TOPS)
        numbers = [rng.randint(0, top) for _ in range(count)]
        largest = rng.random() < 0.5
        answer = str(max(numbers) if largest else min(numbers))
        if count == 2 and rng.random() < _PAIR_SHARE:
            word = rng.choice(("larger", "bigger", "greater", "higher") if largest else ("smaller", "less", "lower"))
            return rng.choice(_PAIR).format(w=word, a=numbers[0], b=numbers[1]), answer
        words = ("largest", "biggest", "highest", "maximum") if largest else ("smallest", "lowest", "minimum")
        word = words[min(int(rng.random() * (len(words) + 1)), len(words) - 1) if rng.random() < 0.6 else 0]
        return rng.choice(_EXTREME).format(w=word, n=_listed(rng, numbers)), answer

    def conversation(self, rng: Random, size: str, plain: bool) -> Sequence[Turn]:
        """The plain form: numbers of 0 to 9 or to 99 with spaces."""
        top = rng.choice((9, 99))
        numbers = [rng.randint(0, top) for _ in range(int(size.split()[0]))]
        word, extreme = ("largest", max(numbers)) if rng.random() < 0.5 else ("smallest", min(numbers))
        return [(f"{word} of {_spaced(numbers)}", str(extreme))] if plain else ()


def _spaced(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _listed(rng: Random, numbers: Sequence[int]) -> str:
    """The numbers as people list them: mostly with spaces, or with commas, or with `and` before the last."""
    joint = rng.choices((" ", ", ", ","), (6, 4, 1))[0]
    if joint == ", " and rng.random() < 0.3:
        *first, last = map(str, numbers)
        return f"{joint.join(first)} and {last}"
    return joint.join(map(str, numbers))


_RANGES = {
    "1 to 10": (1, 10),
    "11 to 20": (11, 20),
    "21 to 49": (21, 49),
    "50 to 100": (50, 100),
    "101 to 399": (101, 399),
}
"""Bounds (inclusive) of the number, by size."""

_READ = (
    *("what number is {r}?", "convert {r} to a number", "write {r} in digits", "roman numeral {r} in digits"),
    *("what is {r} in numbers?", "convert roman numeral {r} to a number", "what is the roman numeral {r}?"),
    *("what number is the roman numeral {r}?", "{r} as a number", "what is {r} as a number?", "{r} in digits"),
    *("write {r} as a number", "which number is {r}?", "what does {r} mean in roman numerals?"),
)
_WRITE = (
    *("write {n} in roman numerals", "convert {n} to roman", "what is {n} in roman numerals?", "{n} in roman numerals"),
    *("convert {n} to roman numerals", "{n} as a roman numeral", "write {n} as a roman numeral", "{n} in roman"),
    *("what is the roman numeral for {n}?", "roman numeral for {n}", "how do you write {n} in roman numerals?"),
)

_SIGNS = ((100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))


class Roman(Task):
    """`what number is xiv?` gives 14, `write 14 in roman numerals` gives xiv."""

    name = "roman"
    small = True
    sizes: ClassVar[Mapping[str, int]] = {size: level for level, size in enumerate(_RANGES, start=1)}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Reading and writing in equal shares."""
        number = rng.randint(*_RANGES[size])
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
    "times 10, 100, 1000": (1, (("cm", "mm", 10), ("m", "cm", 100), ("kg", "g", 1000), ("km", "m", 1000))),
    "weeks": (2, (("weeks", "days", 7),)),
    "times 12": (3, (("feet", "inches", 12), ("years", "months", 12), ("dozen", "pieces", 12))),
    "times 60 and 24": (4, (("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24))),
    "two units": (5, (("weeks", "days", 7), ("feet", "inches", 12), ("years", "months", 12), ("hours", "minutes", 60))),
}
"""Difficulty and (large unit, small unit, how many of the small one make the large one), by size."""

_HIGHEST = {1: 99, 2: 20, 3: 20, 4: 20, 5: 9}
"""The largest amount in a query, by difficulty."""

_ONE = {"weeks": "week", "feet": "foot", "years": "year", "hours": "hour", "minutes": "minute", "days": "day"}
"""Units whose name changes with the amount 1."""

_LONG = dict(mm="millimeters", cm="centimeters", m="meters", km="kilometers", g="grams", kg="kilograms")
_LONG_SHARE = 0.15
"""Names of the metric units, and how often they are written in full."""

_PHRASES = (
    *("how many {s} in {n} {b}?", "how many {s} are {n} {b}?", "convert {n} {b} to {s}", "{n} {b} in {s}"),
    *(
        "how many {s} are in {n} {b}?",
        "how many {s} are there in {n} {b}?",
        "{n} {b} to {s}",
        "what is {n} {b} in {s}?",
    ),
    *("convert {n} {b} into {s}", "how many {s} is {n} {b}?", "how many {s} make {n} {b}?", "{n} {b} = ? {s}"),
    *("change {n} {b} to {s}", "{n} {b} is how many {s}?", "express {n} {b} in {s}"),
)
_MIXED = (
    *("how many {s} in {n} {b} and {r} {s}?", "convert {n} {b} and {r} {s} to {s}", "{n} {b} and {r} {s} in {s}"),
    *("how many {s} are {n} {b} and {r} {s}?", "how many {s} are in {n} {b} and {r} {s}?", "{n} {b} {r} {s} in {s}"),
    *("change {n} {b} and {r} {s} to {s}", "{n} {b} and {r} {s} is how many {s}?", "{n} {b} and {r} {s} to {s}"),
)


class Units(Task):
    """`how many minutes in 3 hours?` gives 180; the hardest size mixes two units."""

    name = "units"
    small = True
    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _) in _UNITS.items()}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Amounts from 1; a mixed rest is always smaller than one large unit."""
        level, kinds = _UNITS[size]
        big, small, factor = rng.choice(kinds)
        amount = rng.randint(1, _HIGHEST[level])
        if rng.random() < _LONG_SHARE:
            big, small = _LONG.get(big, big), _LONG.get(small, small)
        name = _ONE.get(big, big) if amount == 1 else big
        if size != "two units":
            return rng.choice(_PHRASES).format(b=name, s=small, n=amount), str(amount * factor)
        rest = rng.randint(2, factor - 1)
        return rng.choice(_MIXED).format(b=name, s=small, n=amount, r=rest), str(amount * factor + rest)
