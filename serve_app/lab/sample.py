"""Seeded samples of lab queries, balanced over task and size, from either split.

The split is a property of the query's text, so that no training run sees a held-out query.
"""

from collections.abc import Collection
from hashlib import blake2b
from random import Random
from typing import Literal

from serve_app.lab.tasks import CELLS, TASKS, Item

Split = Literal["train", "unseen"]

HELD_OUT_ONE_IN = 20
"""One normalised prompt in this many is never trained on."""


def normalise(prompt: str) -> str:
    """Lower case, one space between words, no question mark at the end."""
    return " ".join(prompt.lower().split()).rstrip("? ")


def split_of(prompt: str) -> Split:
    """The split a query belongs to, by a stable hash of its normalised text."""
    digest = blake2b(normalise(prompt).encode(), digest_size=8).digest()
    return "unseen" if int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0 else "train"


_ATTEMPTS = 20_000
"""Draws after which a cell is taken to have no query in the split (the rarer split is 1 in 20)."""


def sample(n: int, seed: int, split: Split, tasks: Collection[str] = TASKS) -> list[Item]:
    """Draw `n` items, as even over all (task, size) of `tasks` as `n` allows, in random order.

    The same arguments give the same items. Small families repeat queries.
    Raises ValueError for a negative `n`, an unknown split, or no known task.
    """
    if n < 0:
        raise ValueError(f"n is {n}: it must not be negative")
    if split not in ("train", "unseen"):
        raise ValueError(f"split is {split!r}: it must be 'train' or 'unseen'")
    rng = Random(f"lab-sample-{seed}-{split}")
    cells = [cell for cell in CELLS if cell[0] in tasks]
    if not cells:
        raise ValueError(f"tasks are {', '.join(tasks) or 'none'}: they must be of {', '.join(TASKS)}")
    rng.shuffle(cells)
    items = [draw(rng, *cells[index % len(cells)], split) for index in range(n)]
    rng.shuffle(items)
    return items


def draw(rng: Random, task: str, size: str, split: Split) -> Item:
    """Draw one item of a task and size of `split`; advances `rng`."""
    for _ in range(_ATTEMPTS):
        item = TASKS[task].generate(rng, size)
        if split_of(item.prompt) == split:
            return item
    raise RuntimeError(f"{task} of size {size!r} has no query in split {split!r}")
