"""Questions about a short text given in the query."""

from random import Random
from string import ascii_lowercase

from serve_app.lab.tasks.base import Task

_NAMES = ("ann", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "jo", "kim", "leo", "mia", "tom")
_THINGS = ("hats", "cups", "pens", "cats", "keys", "bags", "eggs", "books", "coins", "balls", "stamps", "plums")

_HOW_MANY = ("how many {t} does {n} have?", "how many does {n} have?")
_WHO = ("who has {k} {t}?", "who has the {t}?")
_VALUE = ("{f}. what is {v}?", "if {f}, what is {v}?", "{f}. {v}?")
_EQUALS = (" is ", " = ")

_VARIABLES = {1: (2, 9), 2: (3, 99), 3: (4, 99)}
"""(how many letters have a value, the largest value), by difficulty; then people have things."""

_PEOPLE = {4: 2, 5: 3}
"""How many people have things, by difficulty."""


class Lookup(Task):
    """`x is 4, y is 7. what is y?` gives 7; harder: `ann has 3 hats, tom has 5 cups. who has the cups?`."""

    name = "lookup"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Two to four letters with their values, then two or three people with their things."""
        if difficulty in _PEOPLE:
            return _people(rng, _PEOPLE[difficulty])
        count, top = _VARIABLES[difficulty]
        letters = rng.sample(ascii_lowercase, count)
        values = [rng.randint(0, top) for _ in letters]
        equals = rng.choice(_EQUALS)
        facts = ", ".join(f"{letter}{equals}{value}" for letter, value in zip(letters, values, strict=True))
        target = rng.randrange(count)
        return rng.choice(_VALUE).format(f=facts, v=letters[target]), str(values[target])


def _people(rng: Random, count: int) -> tuple[str, str]:
    names, things = rng.sample(_NAMES, count), rng.sample(_THINGS, count)
    amounts = rng.sample(range(1, 10), count)
    facts = ", ".join(f"{n} has {k} {t}" for n, k, t in zip(names, amounts, things, strict=True))
    target = rng.randrange(count)
    fields = {"n": names[target], "k": amounts[target], "t": things[target]}
    if rng.random() < 0.5:
        return f"{facts}. {rng.choice(_WHO).format(**fields)}", names[target]
    return f"{facts}. {rng.choice(_HOW_MANY).format(**fields)}", str(amounts[target])
