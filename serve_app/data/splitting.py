"""Splits and folds that no near-duplicate straddles: no measured query was met in training, nor nearly.

Whole components of near-duplicates (`near_duplicates.components`) are dealt to the parts, largest first, each to the
part that is furthest below its share; equal ones in an order drawn by the seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import THRESHOLD, compared, components, connected
from serve_app.errors import DataError

Ints = NDArray[np.int64]

_FEWEST: Final = 2


def split_dataset(
    dataset: Dataset, shares: Mapping[str, float], seed: int, threshold: float = THRESHOLD, by_group: bool = False
) -> dict[str, Dataset]:
    """The dataset in parts, named and sized (as shares of the whole, to within a component) by `shares`.

    Each part's `about["part"]` says which it is and how it was made. `by_group` also keeps each group whole, for
    measuring on groups that were not trained on. Rows keep their order. Raises DataError where a part would be empty;
    ValueError for shares that are not positive or sum to more than 1.
    """
    if not shares or min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares must be positive and sum to at most 1, not {dict(shares)}")
    left = 1 - sum(shares.values())
    at = _dealt(_units(dataset, threshold, by_group), [*shares.values(), *([left] if left > 1e-9 else [])], seed)
    how = {"seed": seed, "threshold": threshold, "by_group": by_group}
    parts = {
        name: replace(part, about={**part.about, "part": {"name": name, "share": share, **how}})
        for number, (name, share) in enumerate(shares.items())
        for part in [dataset.take(np.flatnonzero(at == number))]
    }
    if empty := [name for name, part in parts.items() if not len(part)]:
        raise DataError(
            f"part {empty[0]} of the split would be empty: {len(dataset)} queries in too few components of "
            "near-duplicates; collect more queries, or raise the threshold of near-duplicates"
        )
    return parts


def folds(dataset: Dataset, k: int, seed: int, by_group: bool = False, threshold: float = THRESHOLD) -> Ints:
    """A fold in 0 ... k - 1 for each query, shape [n]; near-duplicates share one, with `by_group` whole groups too.

    Raises DataError if there are fewer components (or groups) than folds, ValueError for k below 2.
    """
    if k < _FEWEST:
        raise ValueError(f"cross-validation needs at least {_FEWEST} folds, not {k}")
    units = _units(dataset, threshold, by_group)
    if (found := len(np.unique(units))) < k:
        what = "groups that share no near-duplicates" if by_group else "queries that are no near-duplicates"
        raise DataError(f"{k} folds need at least {k} {what}, there are {found}; take fewer folds or more data")
    return _dealt(units, [1 / k] * k, seed)


def _units(dataset: Dataset, threshold: float, by_group: bool) -> Ints:
    """Labels of what must stay together, shape [n]."""
    units = components([compared(query) for query in dataset.queries], threshold)
    if not by_group:
        return units
    pairs = [_chains(units), _chains(np.unique(dataset.groups, return_inverse=True)[1])]
    return connected(np.concatenate(pairs), len(dataset))


def _chains(labels: Ints) -> Ints:
    """Pairs [m, 2] that join all of the same label, each with the next."""
    order = np.argsort(labels, kind="stable")
    same = labels[order[1:]] == labels[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def _dealt(units: Ints, shares: Sequence[float], seed: int) -> Ints:
    """The part of each row, shape [n]: every unit to the part that lacks most of its share."""
    sizes = np.bincount(units)
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    order = drawn[np.argsort(-sizes[drawn], kind="stable")]
    targets = np.array(shares) * len(units)
    filled = np.zeros(len(shares))
    part = np.empty(len(sizes), dtype=np.int64)
    for unit in order:
        part[unit] = np.argmax((targets - filled) / targets)
        filled[part[unit]] += sizes[unit]
    return part[units]
