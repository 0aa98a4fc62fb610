"""Everything that is none of the lab's tasks: everyday English, near misses, and tasks beyond the known sizes.

The models are trained to say so, in one fixed sentence, instead of inventing a number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from string import ascii_lowercase
from typing import ClassVar

from serve_app.lab.tasks.base import Task
from serve_app.lab.tasks.letters import words_of_length
from serve_app.lab.tasks.lookup import who_has

ANSWER = "i only know small tasks"

_LONGER_SHARE = 0.15
"""Share of everyday text with a second sentence."""
_WHO_SHARE = 0.1
"""Share of what is near a task that asks who has something: of such texts the models answer only how many."""
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class _Everyday:
    """Sentences with slots in braces, by section, and what fills each slot."""

    slots: dict[str, tuple[str, ...]]
    everyday: tuple[str, ...]
    near: tuple[str, ...]


@cache
def _everyday() -> _Everyday:
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in files("serve_app.lab.tasks").joinpath("everyday.txt").read_text(encoding="ascii").splitlines():
        if line.startswith("# "):
            lines = sections.setdefault(line[2:], [])
        elif line:
            lines.append(line)
    slots = {}
    for line in sections["lists"]:
        name, _, values = line.partition(":")
        slots[name] = tuple(value.strip() for value in values.split("|"))
    return _Everyday(slots, tuple(sections["everyday"]), tuple(sections["near"]))


def _filled(rng: Random, sentence: str) -> str:
    slots = _everyday().slots
    return _SLOT.sub(lambda found: rng.choice(slots[found[1]]), sentence)


_UNKNOWN = (
    *("{a} / {b}", "what is {a} / {b}?", "{a} divided by {b}", "divide {a} by {b}", "{a} ^ {b}", "{a} ** {b}"),
    *("what is the square root of {a}?", "{a} squared", "{a} to the power of {b}", "what is {a} percent of {b}?"),
    *("{a} % {b}", "{a} mod {b}", "is {a} a prime number?", "factor {a}", "half of {a}", "what is {a} cubed?"),
    *("{a} degrees in fahrenheit", "convert {a} dollars to euros", "round {a}.{b}", "{a}.{b} + {b}", "log of {a}"),
    *("{a}", "{a} {b}", "is {a} even or odd?", "what is the average of {a} and {b}?", "pi", "{a}!", "-{a} + {b}"),
    *("what is {a} + {b} + {a} * {b} - {a}?", "solve x + {a} = {b}", "count from {a} to {b}", "{a} miles in km"),
    *("what is {w} + {w}?", "{a} + {w}", "what is {a} plus {w}?", "sort {w} {w} {w}", "the largest of {w} and {w}"),
    *("sort the words {w}, {w}, {w}", "how many {w} in {w}?", "convert {w} to {w}", "what day is {w}?", "{w} {a}"),
    *("add {w} and {w}", "{w} times {a}", "multiply {w} by {a}", "what number is {w}?", "{a} days after {w}"),
)

_TOO_LARGE = (
    *("{l} + {m}", "what is {l} + {m}?", "{m} + {l}", "{l} - {m}", "what is {l} - {m}?", "add {l} and {m}"),
    *("what is {l} plus {m}?", "subtract {m} from {l}", "{l} * {m}", "what is {m} * {l}?", "multiply {l} by {m}"),
    *("{t} * {t}", "what is {t} * {t}?", "what is {t} times {t}?", "multiply {t} by {t}", "{t}*{t}", "{t} x {t}"),
    *("reverse {g}", "spell {g} backwards", "how many letters in {g}?", "how many vowels in {g}?", "reverse {g}"),
    *("sort {n}", "sort the numbers {n}", "what is the largest of {n}?", "smallest of {n}", "sort {n}", "sort {h}"),
    *("write {l} in roman numerals", "convert {l} to roman", "what is {l} in roman numerals?", "sort {h}"),
)


class Other(Task):
    """`who wrote hamlet?` gives `i only know small tasks`."""

    name = "other"
    sizes: ClassVar[Mapping[str, int]] = {"everyday": 1, "near a task": 2, "unknown operation": 3, "too large": 4}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Text of the kind; all has the one answer."""
        return self._text(rng, size), ANSWER

    def _text(self, rng: Random, size: str) -> str:
        if size == "everyday":
            said = _filled(rng, rng.choice(_everyday().everyday))
            if rng.random() < _LONGER_SHARE:
                said += rng.choice((" ", ". ", ", ", " and ")) + _filled(rng, rng.choice(_everyday().everyday))
            return said
        if size == "near a task":
            if rng.random() < _WHO_SHARE:
                return who_has(rng)
            return _filled(rng, rng.choice(_everyday().near))
        if size == "unknown operation":
            pattern = rng.choice(_UNKNOWN)
            fields = {"a": lambda: str(rng.randint(0, 10 ** rng.randint(1, 3))), "w": lambda: _any_word(rng)}
            fields["b"] = fields["a"]
        else:
            pattern = rng.choice(_TOO_LARGE)
            fields = {
                "l": lambda: str(rng.randint(1000, 10 ** rng.randint(4, 6))),
                "m": lambda: str(rng.randint(0, 10 ** rng.randint(1, 6))),
                "t": lambda: str(rng.randint(11, 99)),
                "g": lambda: "".join(rng.choices(ascii_lowercase, k=rng.randint(13, 18))),
                "n": lambda: " ".join(str(rng.randint(0, 99)) for _ in range(rng.randint(11, 16))),
                "h": lambda: " ".join(str(rng.randint(100, 9999)) for _ in range(rng.randint(3, 6))),
            }
        return _SLOT.sub(lambda found: fields[found[1]](), pattern)


def _any_word(rng: Random) -> str:
    slots = _everyday().slots
    if rng.random() < 0.5:
        return rng.choice(words_of_length(rng.randint(3, 10)))
    return rng.choice(slots[rng.choice(sorted(slots))])
