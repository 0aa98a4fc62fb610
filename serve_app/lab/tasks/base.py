"""What a lab task is: it makes queries of a known difficulty and grades answers exactly.

A task decides neither how often it is sampled (see `serve_app.lab.sample`) nor which of its
queries are held out (see `serve_app.lab.sample`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random

LEVELS = (1, 2, 3, 4, 5)
"""Difficulties of every task, easiest first."""

BARE_QUESTION_SHARE = 0.15
"""Share of questions written without their question mark, as people do."""

OPENINGS = (
    *("please {p}", "tell me {p}", "tell me: {p}", "question: {p}", "quick question: {p}", "answer this: {p}"),
    *("i want to know: {p}", "hello, {p}", "hi! {p}", "now {p}", "so, {p}", "ok, {p}", "q: {p}"),
)
OPENED_SHARE = 0.6
"""How small families are opened, and how often, so that they have many texts too."""


@dataclass(frozen=True, slots=True)
class Item:
    """One query with its only right answer."""

    task: str
    difficulty: int
    prompt: str
    answer: str


class Task(ABC):
    """A family of queries, each with exactly one right answer."""

    name: str
    small: bool = False
    """Whether the family has so few queries that its texts need openings to be many."""

    @abstractmethod
    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Write one (prompt, answer) of the given difficulty."""

    def generate(self, rng: Random, difficulty: int) -> Item:
        """Draw one item; advances `rng`. Raises ValueError for a difficulty outside `LEVELS`."""
        if difficulty not in LEVELS:
            raise ValueError(f"difficulty of {self.name} is {difficulty!r}: it must be one of {LEVELS}")
        prompt, answer = self.compose(rng, difficulty)
        if prompt.endswith("?") and rng.random() < BARE_QUESTION_SHARE:
            prompt = prompt[:-1]
        if self.small and rng.random() < OPENED_SHARE:
            prompt = rng.choice(OPENINGS).format(p=prompt)
        return Item(self.name, difficulty, prompt, answer)

    def grade(self, item: Item, text: str) -> float:
        """1.0 if `text` is the item's answer, ignoring surrounding white space, else 0.0."""
        return grade(item.answer, text)


def grade(answer: str, text: str) -> float:
    """1.0 if `text` is `answer`, ignoring surrounding white space, else 0.0."""
    return float(text.strip() == answer)
