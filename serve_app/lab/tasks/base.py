"""What a lab task is: it makes queries of a known size and grades answers exactly.

A task decides neither how often it is sampled (see `serve_app.lab.sample`) nor which of its
queries are held out (see `serve_app.lab.sample`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

LEVELS = (1, 2, 3, 4, 5)
"""Difficulties of every task, easiest first."""

BARE_QUESTION_SHARE = 0.15
"""Share of questions written without their question mark, as people do."""

OPENINGS = (
    *("please {p}", "tell me {p}", "tell me: {p}", "question: {p}", "quick question: {p}", "answer this: {p}"),
    *("i want to know: {p}", "hello, {p}", "hi! {p}", "now {p}", "so, {p}", "ok, {p}", "q: {p}"),
    *("can you {p}", "hey, {p}", "{p} please", "{p}, please"),
)
OPENED_SHARE = 0.12
SMALL_OPENED_SHARE = 0.6
"""Share of queries behind an opening; small families need it to have many texts too."""

_FULL_STOP_SHARE = 0.05
"""Share of commands that end in a full stop."""

_CONTRACTED_SHARE = 0.15
"""Share of `what is` written as `what's`."""


@dataclass(frozen=True, slots=True)
class Item:
    """One query with its only right answer."""

    task: str
    size: str
    difficulty: int
    prompt: str
    answer: str


Turn = tuple[str, str]
"""A prompt and its answer."""


class Task(ABC):
    """A family of queries, each with exactly one right answer."""

    name: str
    sizes: ClassVar[Mapping[str, int]]
    """The difficulty of each size, the smallest size first."""
    small: bool = False
    """Whether the family has so few queries that its texts need openings to be many."""

    @abstractmethod
    def compose(self, rng: Random, size: str) -> Turn:
        """Write one prompt of the given size, with its answer."""

    def conversation(self, rng: Random, size: str, plain: bool) -> Sequence[Turn]:
        """A prompt of the given size, and further questions about it where there can be some; none by default.

        `plain`: in one wording with small numbers. Such turns are for training alone.
        """
        return ()

    def generate(self, rng: Random, size: str) -> Item:
        """Draw one item; advances `rng`. Raises ValueError for a size that the task does not have."""
        if size not in self.sizes:
            raise ValueError(f"size of {self.name} is {size!r}: it must be one of {', '.join(self.sizes)}")
        prompt, answer = self.compose(rng, size)
        if prompt.startswith("what is ") and rng.random() < _CONTRACTED_SHARE:
            prompt = "what's " + prompt.removeprefix("what is ")
        if prompt.endswith("?") and rng.random() < BARE_QUESTION_SHARE:
            prompt = prompt[:-1].rstrip()
        elif prompt[-1].isalpha() and rng.random() < _FULL_STOP_SHARE:
            prompt += "."
        if rng.random() < (SMALL_OPENED_SHARE if self.small else OPENED_SHARE):
            prompt = rng.choice(OPENINGS).format(p=prompt)
        return Item(self.name, size, self.sizes[size], prompt, answer)

    def grade(self, item: Item, text: str) -> float:
        """1.0 if `text` is the item's answer, ignoring surrounding white space, else 0.0."""
        return grade(item.answer, text)


def grade(answer: str, text: str) -> float:
    """1.0 if `text` is `answer`, ignoring surrounding white space, else 0.0."""
    return float(text.strip() == answer)
