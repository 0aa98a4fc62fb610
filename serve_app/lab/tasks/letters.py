"""Tasks over the letters of one word: writing it backwards and counting a letter."""

from __future__ import annotations

from random import Random
from string import ascii_lowercase

from serve_app.lab.tasks.base import Task
from serve_app.lab.tasks.words import words_of_length

_REVERSE = (
    "reverse {w}",
    "reverse the word {w}",
    "spell {w} backwards",
    "write {w} backwards",
    "what is {w} in reverse?",
    "what is {w} spelled backwards?",
)
_COUNT = (
    "how many {c} in {w}?",
    "how many {c} are in {w}?",
    "count the letter {c} in {w}",
    "count {c} in {w}",
    "how many times does {c} appear in {w}?",
    "how many letters {c} are in the word {w}?",
)

_REVERSE_LENGTHS = {1: (3,), 2: (4,), 3: (5,), 4: (6,), 5: (7,)}
_COUNT_LENGTHS = {1: (3,), 2: (4, 5), 3: (6,), 4: (7, 8), 5: (9, 10)}
"""Lengths of the word, by difficulty."""

_WORD_SHARE = 0.5
"""Share of queries over an English word; the others are over random letters."""


class Reverse(Task):
    """`reverse stone` gives `enots`."""

    name = "reverse"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """A word or random letters, three to seven long."""
        length = rng.choice(_REVERSE_LENGTHS[difficulty])
        if rng.random() < _WORD_SHARE:
            word = rng.choice(words_of_length(length))
        else:
            word = "".join(rng.choices(ascii_lowercase, k=length))
        return rng.choice(_REVERSE).format(w=word), word[::-1]


class Count(Task):
    """`how many e in letter?` gives 2."""

    name = "count"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """A word, or random letters out of very few so that counts above two occur."""
        length = rng.choice(_COUNT_LENGTHS[difficulty])
        if rng.random() < _WORD_SHARE:
            word = rng.choice(words_of_length(length))
        else:
            word = "".join(rng.choices(rng.sample(ascii_lowercase, 3), k=length))
        letter = rng.choice(word) if rng.random() < 0.8 else rng.choice(ascii_lowercase)
        return rng.choice(_COUNT).format(c=letter, w=word), str(word.count(letter))
