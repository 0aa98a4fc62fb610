"""Questions about a short text given in the query."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

_NAMES = ("ann", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "jo", "kim", "leo", "mia", "tom")
_THINGS = ("hats", "cups", "pens", "cats", "keys", "bags", "eggs", "books", "coins", "balls", "stamps", "plums")

_HOW_MANY = ("how many {t} does {n} have?", "how many does {n} have?", "how many {t} has {n}?")
_WHO = ("who has {k} {t}?", "who has the {t}?", "who has {k}?")
_TOGETHER = ("how many {t} do {n} and {m} have together?", "how many {t} have {n} and {m}?")


class Lookup(Task):
    """`ann has 3 hats, tom has 5 cups. how many cups does tom have?` gives 5."""

    name = "lookup"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Two to four facts; the hardest level adds two of three amounts."""
        if difficulty == 5:
            return _together(rng)
        count = {1: 2, 2: 3, 3: 3, 4: 4}[difficulty]
        names, things = rng.sample(_NAMES, count), rng.sample(_THINGS, count)
        low, high = (1, 9) if difficulty < 3 else (10, 99)
        amounts = rng.sample(range(low, high + 1), count)
        facts = [f"{n} has {k} {t}" for n, k, t in zip(names, amounts, things, strict=True)]
        target = rng.randrange(count)
        fields = {"n": names[target], "k": amounts[target], "t": things[target]}
        if rng.random() < 0.5:
            return _text(rng, facts, rng.choice(_WHO).format(**fields)), names[target]
        return _text(rng, facts, rng.choice(_HOW_MANY).format(**fields)), str(amounts[target])


def _together(rng: Random) -> tuple[str, str]:
    names, thing = rng.sample(_NAMES, 3), rng.choice(_THINGS)
    amounts = [rng.randint(1, 9) for _ in names]
    facts = [f"{n} has {k} {thing}" for n, k in zip(names, amounts, strict=True)]
    i, j = rng.sample(range(3), 2)
    question = rng.choice(_TOGETHER).format(t=thing, n=names[i], m=names[j])
    return _text(rng, facts, question), str(amounts[i] + amounts[j])


def _text(rng: Random, facts: list[str], question: str) -> str:
    return f"{rng.choice((', ', '. ')).join(facts)}. {question}"
