"""Sets of models as bit masks: bit m is set where model m is in the set."""

from collections.abc import Iterator

MOST_MODELS = 8
"""Estimates are kept for every set of models, 2 ** models of them."""


def members(models: int, count: int) -> list[int]:
    """The models in a set, of `count` there are, ascending."""
    return [m for m in range(count) if models >> m & 1]


def by_size(count: int) -> list[int]:
    """All sets of `count` models, the smaller ones first."""
    return sorted(range(2**count), key=lambda models: (models.bit_count(), models))


def parents(models: int, kept: int | None = None) -> Iterator[int]:
    """The sets with one model less, of those that keep the model `kept`."""
    for m in range(models.bit_length()):
        if models >> m & 1 and m != kept:
            yield models & ~(1 << m)
