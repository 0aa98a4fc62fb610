"""Tasks over the letters of one word: writing it backwards and counting in it.

The lab's own list of common English words, by length.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from random import Random
from string import ascii_lowercase
from typing import ClassVar

from serve_app.lab.tasks.base import Task, Turn

SHORTEST_LISTED = 3


@cache
def words_of_length(length: int) -> tuple[str, ...]:
    """All listed words of that many letters, sorted. Raises ValueError if there is none."""
    text = files("serve_app.lab.tasks").joinpath("words.txt").read_text(encoding="ascii")
    words = tuple(sorted(word for word in text.split() if len(word) == length))
    if not words:
        raise ValueError(f"the word list has no word of length {length}: it has {SHORTEST_LISTED} to 10")
    return words


_REVERSE = (
    *("reverse {w}", "reverse the word {w}", "spell {w} backwards", "write {w} backwards", "reverse '{w}'"),
    *("what is {w} in reverse?", "what is {w} spelled backwards?", "{w} backwards", "{w} reversed", "{w} in reverse"),
    *("reverse the letters of {w}", "what is {w} backwards?", "reverse the letters in {w}", "reverse: {w}"),
    *("spell the word {w} backwards", "write the word {w} backwards", "reverse the string {w}", 'reverse "{w}"'),
    *("how do you spell {w} backwards?", "say {w} backwards", "turn {w} around", "what is the reverse of {w}?"),
    *(
        "reverse this word: {w}",
        "reverse this: {w}",
        "the reverse of {w}",
        "spell {w} in reverse",
        "what is {w} reversed?",
    ),
)
_LENGTH = (
    *("how many letters in {w}?", "how many letters are in {w}?", "count the letters in {w}", "length of {w}"),
    *("how many letters does {w} have?", "how many letters are there in {w}?", "how long is the word {w}?"),
    *("how many letters in the word {w}?", "what is the length of {w}?", "number of letters in {w}"),
    *("how many letters does the word {w} have?", "how many letters are in the word {w}?", "count letters in {w}"),
)
_VOWELS = (
    *("how many vowels in {w}?", "how many vowels are in {w}?", "count the vowels in {w}", "number of vowels in {w}"),
    *("how many vowels does {w} have?", "how many vowels are there in {w}?", "how many vowels in the word {w}?"),
    *("how many vowels does the word {w} have?", "count vowels in {w}", "how many vowels are in the word {w}?"),
)
_COUNT = (
    *("how many {c} in {w}?", "how many {c} are in {w}?", "count {c} in {w}", "how many {c} does {w} have?"),
    *("how many {c}'s in {w}?", "how many {c}'s are in {w}?", "how many times is {c} in {w}?", "count the {c} in {w}"),
    *("how many times does {c} appear in {w}?", "how many {c}s in {w}?", "how many {c}s are in {w}?"),
    *("how many {c}'s are there in {w}?", "count the letter {c} in {w}", "how many {c} are there in {w}?"),
    *("how many letters {c} in {w}?", "how many {c} are in the word {w}?", "how many {c}'s in the word {w}?"),
    *("how often does {c} appear in {w}?", "how often is {c} in {w}?", "how many times does {c} occur in {w}?"),
)

_COUNTED = {
    "letters of 1 to 5": (1, 1, 5),
    "letters of 6 to 10": (2, 6, 10),
    "vowels of 1 to 5": (3, 1, 5),
    "vowels of 6 to 10": (4, 6, 10),
    "one letter of 1 to 5": (4, 1, 5),
    "one letter of 6 to 10": (5, 6, 10),
}
"""Difficulty, and the least and the largest number of letters of the word, by what is counted in it."""

_WORD_SHARE = 0.5
"""Share of queries over an English word; the others are over random letters."""
_FURTHER_QUESTIONS = 6
_FEW_LETTERS_SHARE = 0.5
"""Share of random letters that are drawn out of very few, where one letter is counted."""


def _word(rng: Random, length: int, alphabet: str = ascii_lowercase) -> str:
    """An English word of that length or random letters out of the alphabet."""
    if length >= SHORTEST_LISTED and rng.random() < _WORD_SHARE:
        return rng.choice(words_of_length(length))
    return "".join(rng.choices(alphabet, k=length))


class Reverse(Task):
    """`reverse stone` gives `enots`."""

    name = "reverse"
    sizes: ClassVar[Mapping[str, int]] = {
        f"{length} letter{'s' if length > 1 else ''}": (length + 1) // 2 for length in range(1, 11)
    }

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """A word or random letters, one to ten long."""
        word = _word(rng, int(size.split()[0]))
        return rng.choice(_REVERSE).format(w=word), word[::-1]


class Count(Task):
    """`how many letters in stone?` gives 5; then vowels, and at last one letter: `how many e in letter?`."""

    name = "count"
    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _, _) in _COUNTED.items()}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """A word or random letters; those are often out of very few where one letter is counted."""
        _, shortest, longest = _COUNTED[size]
        length = rng.randint(shortest, longest)
        if size.startswith("letters"):
            return rng.choice(_LENGTH).format(w=_word(rng, length)), str(length)
        if size.startswith("vowels"):
            word = _word(rng, length)
            return rng.choice(_VOWELS).format(w=word), str(sum(letter in "aeiou" for letter in word))
        few = "".join(rng.sample(ascii_lowercase, 3))
        word = _word(rng, length, few if rng.random() < _FEW_LETTERS_SHARE else ascii_lowercase)
        letter = _counted(rng, word)
        return rng.choice(_COUNT).format(c=letter, w=word), str(word.count(letter))

    def conversation(self, rng: Random, size: str, plain: bool) -> Sequence[Turn]:
        """Where one letter is counted: further letters of the same word; plainly, of a word or three letters."""
        _, shortest, longest = _COUNTED[size]
        if not size.startswith("one letter"):
            return ()
        few = "".join(rng.sample(ascii_lowercase, 3))
        word = _word(rng, rng.randint(shortest, longest), few if plain else ascii_lowercase)
        letters = [_counted(rng, word) for _ in range(1 + _FURTHER_QUESTIONS)]
        first = (_COUNT[0] if plain else rng.choice(_COUNT)).format(c=letters[0], w=word)
        questions = [first, *(f"{letter}?" for letter in letters[1:])]
        return [(question, str(word.count(letter))) for question, letter in zip(questions, letters, strict=True)]


def _counted(rng: Random, word: str) -> str:
    """A letter to count, mostly one of the word's."""
    return rng.choice(word) if rng.random() < 0.8 else rng.choice(ascii_lowercase)
