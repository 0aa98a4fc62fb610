"""Questions about a short text given in the query."""

from collections.abc import Mapping, Sequence
from random import Random
from string import ascii_lowercase
from typing import ClassVar

from serve_app.lab.tasks.base import Task, Turn

_PEOPLE = """
    ann ben cleo dan eva finn gus hana ivo jo kim leo mia tom amy anna bill bob carl clara david ella emma eric frank
    grace harry henry ian ida jack jane jim john julia kate laura lily lucas lucy mark mary max nina noah olga oscar
    paul peter rosa ruth sam sara simon sofia theo tina vera victor will zoe
"""
_THINGS = """
    hats cups pens cats keys bags eggs books coins balls stamps plums apples shoes rings cards dogs toys boxes cars
    birds maps nuts pears kites lamps shirts socks stones chairs clocks forks dolls fish goats bikes cakes flowers
    marbles pencils oranges bottles sheep tickets spoons
"""

_HOW_MANY = ("how many {t} does {n} have?", "how many does {n} have?", "how many {t} has {n}?")
_WHO = ("who has {k} {t}?", "who has the {t}?", "who has {t}?", "who has the {t}?", "who owns the {t}?")
_VALUE = (
    *("{f}. what is {v}?", "if {f}, what is {v}?", "{f}. {v}?", "{f}, what is {v}?", "{f}. what is the value of {v}?"),
    *("given {f}, what is {v}?", "let {f}. what is {v}?", "{f}; what is {v}?"),
    *("{f}, {v} = ?", "{f}, {v}=?", "{f}. find {v}", "{f}. what does {v} equal?"),
)
_EQUALS = (" is ", " = ", "=")
_FURTHER = ("{v}?", "what is {v}?", "and {v}?")
"""Questions for a further value, in a conversation."""
_FURTHER_QUESTIONS = 6

_COUNTS = {
    "2 values": (1, 2),
    "3 values": (2, 3),
    "4 values": (3, 4),
    "2 people": (4, 2),
    "3 people": (5, 3),
    "4 people": (5, 4),
}
"""Difficulty and how many facts, by size."""


class Lookup(Task):
    """`x is 4, y is 7. what is y?` gives 7; harder: `ann has 3 hats, tom has 5 cups. how many cups does tom have?`."""

    name = "lookup"
    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _) in _COUNTS.items()}

    def compose(self, rng: Random, size: str) -> Turn:
        """Two to four letters with values of 0 to 99, then two to four people with their things."""
        return self.conversation(rng, size, plain=False)[0]

    def conversation(self, rng: Random, size: str, plain: bool) -> Sequence[Turn]:
        """The facts with one question, then more at random, so that what was said before rules nothing out."""
        count = _COUNTS[size][1]
        return _people(rng, count, plain) if size.endswith("people") else _values(rng, count, plain)


def _values(rng: Random, count: int, plain: bool) -> Sequence[Turn]:
    letters = rng.sample(ascii_lowercase, count)
    top = 9 if plain else rng.choice((9, 99))
    values = [str(rng.randint(0, top)) for _ in letters]
    equals, joint = (" = ", ", ") if plain else (rng.choice(_EQUALS), rng.choices((", ", " and "), (4, 1))[0])
    facts = joint.join(f"{letter}{equals}{value}" for letter, value in zip(letters, values, strict=True))
    target = rng.randrange(count)
    first = ("{f}. {v}?" if plain else rng.choice(_VALUE)).format(f=facts, v=letters[target])
    further = "{v}?" if plain else rng.choice(_FURTHER)
    order = rng.choices(range(count), k=_FURTHER_QUESTIONS)
    return [(first, values[target]), *((further.format(v=letters[k]), values[k]) for k in order)]


def _people(rng: Random, count: int, plain: bool) -> Sequence[Turn]:
    names, things, amounts = _belongings(rng, count)
    facts, end = _facts_of(rng, names, things, amounts, plain)
    turns = []
    for k in rng.choices(range(count), k=1 + _FURTHER_QUESTIONS):
        phrase = _HOW_MANY[0] if plain else rng.choice(_HOW_MANY)
        turns.append((phrase.format(n=names[k], t=things[k]), str(amounts[k])))
    question, answer = turns[0]
    return [(f"{facts}{end}{question}", answer), *turns[1:]]


def who_has(rng: Random) -> str:
    """A question that is none of the task's, about the same kind of text: the models did not learn to answer it."""
    count = rng.randint(2, 4)
    names, things, amounts = _belongings(rng, count)
    facts, end = _facts_of(rng, names, things, amounts, plain=False)
    k = rng.randrange(count)
    return f"{facts}{end}{rng.choice(_WHO).format(k=amounts[k], t=things[k])}"


def _belongings(rng: Random, count: int) -> tuple[Sequence[str], Sequence[str], Sequence[int]]:
    """Names, their things, and how many of them."""
    names, things = rng.sample(_PEOPLE.split(), count), rng.sample(_THINGS.split(), count)
    return names, things, [rng.randint(1, 9) for _ in names]


def _facts_of(
    rng: Random, names: Sequence[str], things: Sequence[str], amounts: Sequence[int], plain: bool
) -> tuple[str, str]:
    """Who has what, and what ends it."""
    joint, end = rng.choices(((", ", ". "), (". ", ". "), (", ", ", "), (" and ", ". ")), (4, 2, 1, 1))[0]
    if plain:
        joint, end = ", ", ". "
    return joint.join(f"{n} has {k} {t}" for n, k, t in zip(names, amounts, things, strict=True)), end
