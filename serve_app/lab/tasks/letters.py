"""Tasks over the letters of one word: writing it backwards and counting in it.

The lab's own list of common English words, by length.
"""

from functools import cache
from importlib.resources import files
from random import Random
from string import ascii_lowercase

from serve_app.lab.tasks.base import Task


@cache
def words_of_length(length: int) -> tuple[str, ...]:
    """All listed words of that many letters, sorted. Raises ValueError if there is none."""
    text = files("serve_app.lab.tasks").joinpath("words.txt").read_text(encoding="ascii")
    words = tuple(sorted(word for word in text.split() if len(word) == length))
    if not words:
        raise ValueError(f"the word list has no word of length {length}: it has 3 to 10")
    return words


_REVERSE = (
    "reverse {w}",
    "reverse the word {w}",
    "spell {w} backwards",
    "write {w} backwards",
    "what is {w} in reverse?",
    "what is {w} spelled backwards?",
)
_LENGTH = ("how many letters in {w}?", "how many letters are in {w}?", "count the letters in {w}", "length of {w}")
_VOWELS = ("how many vowels in {w}?", "how many vowels are in {w}?", "count the vowels in {w}")
_COUNT = ("how many {c} in {w}?", "how many {c} are in {w}?", "count {c} in {w}")

_REVERSE_LENGTHS = {1: (3,), 2: (4,), 3: (5,), 4: (6,), 5: (7,)}
_COUNT_LENGTHS = {1: (3, 4, 5, 6), 2: (7, 8, 9, 10), 3: (3, 4, 5), 4: (6, 7, 8), 5: (3, 4, 5)}
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
    """`how many letters in stone?` gives 5; then vowels, and at last one letter: `how many e in letter?`."""

    name = "count"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """A word or random letters; those are out of very few where one letter is counted."""
        length = rng.choice(_COUNT_LENGTHS[difficulty])
        alphabet = rng.sample(ascii_lowercase, 3) if difficulty == 5 else list(ascii_lowercase)
        if rng.random() < _WORD_SHARE:
            word = rng.choice(words_of_length(length))
        else:
            word = "".join(rng.choices(alphabet, k=length))
        if difficulty < 3:
            return rng.choice(_LENGTH).format(w=word), str(length)
        if difficulty < 5:
            return rng.choice(_VOWELS).format(w=word), str(sum(letter in "aeiou" for letter in word))
        letter = rng.choice(word) if rng.random() < 0.8 else rng.choice(ascii_lowercase)
        return rng.choice(_COUNT).format(c=letter, w=word), str(word.count(letter))
