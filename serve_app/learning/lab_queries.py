"""Lab queries for routers: all unseen by the models, one half to learn from and the other to measure on.

A router must learn from queries that the models were not trained on, since those are what it will meet: small task
families are learned by heart, and answers to trained queries flatter both models. The half is a property of the
query's text, so that no run can mix them up.
"""

from hashlib import blake2b
from random import Random
from typing import Literal

from serve_app.lab.sample import draw
from serve_app.lab.split import normalise
from serve_app.lab.tasks import CELLS, Item

Half = Literal["learn", "measure"]
_DRAWS = 64
"""Unseen queries drawn for one of the wanted half; a cell that gives none has all its few queries in the other."""


def half_of(prompt: str) -> Half:
    """The half that an unseen query belongs to, by a stable hash of its normalised text."""
    digest = blake2b(normalise(prompt).encode(), digest_size=8, person=b"jethro-router").digest()
    return "learn" if digest[0] % 2 == 0 else "measure"


def unseen_queries(n: int, seed: int, half: Half) -> list[Item]:
    """`n` unseen items of one half, as even over all (task, difficulty) as the half allows, in random order.

    The same arguments give the same items; small families repeat queries.
    """
    rng = Random(f"lab-router-{seed}-{half}")
    cells = list(CELLS)
    rng.shuffle(cells)
    items: list[Item] = []
    while len(items) < n and cells:
        for cell in tuple(cells):
            found = next(
                (i for i in (draw(rng, *cell, "unseen") for _ in range(_DRAWS)) if half_of(i.prompt) == half), None
            )
            if found is None:
                cells.remove(cell)
            else:
                items.append(found)
    rng.shuffle(items)
    return items[:n]
