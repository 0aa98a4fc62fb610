"""Conversion of whole amounts between units."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

_UNITS = {
    1: (("cm", "mm", 10), ("m", "cm", 100), ("kg", "g", 1000), ("km", "m", 1000)),
    2: (("weeks", "days", 7),),
    3: (("feet", "inches", 12), ("years", "months", 12), ("dozen", "pieces", 12)),
    4: (("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24)),
    5: (("weeks", "days", 7), ("feet", "inches", 12), ("years", "months", 12), ("hours", "minutes", 60)),
}
"""(large unit, small unit, how many of the small one make the large one), by difficulty."""

_HIGHEST = {1: 99, 2: 20, 3: 20, 4: 20, 5: 9}
"""The largest amount asked for, by difficulty."""

_PHRASES = (
    "how many {s} in {n} {b}?",
    "how many {s} are {n} {b}?",
    "convert {n} {b} to {s}",
    "{n} {b} in {s}",
)
_MIXED = (
    "how many {s} in {n} {b} and {r} {s}?",
    "convert {n} {b} and {r} {s} to {s}",
    "{n} {b} and {r} {s} in {s}",
)


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
