"""Which answers to put together: several samples of the best model, or a mix of models, by recorded qualities.

A set says how many answers of each member there are. Two figures of it are exact, over all draws from the recorded
samples: the mean quality of its answers, and the expected quality of the best one. What a ranker or fuser makes of it
is in between: at skill s, mean + s (best - mean), where 0 picks at random and 1 always finds the best. A mix raises the
best and, with a weak member in it, lowers the mean; so mixing strong with weak models hurts up to the break-even skill
(compare Self-MoA, Li et al. 2025, arXiv 2502.00674, who find quality to matter more than diversity). A fuser
that writes better answers than the best of its candidates has a skill above 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from serve_app.arrays import Floats
from serve_app.learning.metrics import Interval, bootstrap

Counts = Mapping[int, int]
"""Answers by member, as its position."""


@dataclass(frozen=True, slots=True)
class SetComparison:
    """Of two sets, both on the same queries. `difference`: what the first is worth more than the second, at `skill`.

    `mean` and `best`: the figures of the first and of the second. `break_even`: the skill at which both are worth the
    same; None if one is worth more at every skill from 0 to 1, or both are equal at all of them.
    """

    skill: float
    mean: tuple[float, float]
    best: tuple[float, float]
    difference: Interval
    break_even: float | None

    @property
    def better(self) -> int | None:
        """0 or 1, the set that is surely better; None where the interval holds zero."""
        if self.difference.low > 0:
            return 0
        return 1 if self.difference.high < 0 else None


def mean_quality(quality: Floats, counts: Counts) -> Floats:
    """Mean quality of the answers of a set, shape [n]; `quality` is [n, members, samples], see `samples_of`."""
    total = sum(counts.values())
    parts = [count * samples_of(quality, member, count).mean(axis=1) for member, count in _counted(counts)]
    mean: Floats = np.sum(parts, axis=0) / total
    return mean


def best_quality(quality: Floats, counts: Counts) -> Floats:
    """Expected quality of the best answer of a set, over all draws without return, shape [n].

    Draws of members are independent, so that the distribution of the best is the product of theirs: that all of c
    draws from k are at most t has the chance C(m, c) / C(k, c), with m of the k samples at most t.
    """
    drawn = [(samples_of(quality, member, count), count) for member, count in _counted(counts)]
    levels = np.sort(np.concatenate([samples for samples, _ in drawn], axis=1), axis=1)
    at_most = np.ones(levels.shape)
    for samples, count in drawn:
        k = samples.shape[1]
        chances = np.array([comb(m, count) for m in range(k + 1)]) / comb(k, count)
        at_most *= chances[(samples[:, :, None] <= levels[:, None, :]).sum(axis=1)]
    steps = np.diff(at_most, axis=1, prepend=0.0)
    best: Floats = (levels * steps).sum(axis=1)
    return best


def samples_of(quality: Floats, member: int, count: int) -> Floats:
    """The samples of a member, shape [n, k]; columns that are nan in every row are samples that it does not have.

    Raises ValueError for less than `count` of them, and for a sample that is missing in some rows only.
    """
    own: Floats = quality[:, member, :]
    unknown = np.isnan(own)
    if (unknown.any(axis=0) & ~unknown.all(axis=0)).any():
        raise ValueError(f"member {member} has samples that are not scored in some rows")
    own = own[:, ~unknown.all(axis=0)]
    if own.shape[1] < count:
        raise ValueError(f"member {member} has {own.shape[1]} samples, the set takes {count}")
    return own


def selection_skill(picked: Floats, quality: Floats, counts: Counts) -> float:
    """Skill of a ranker or fuser: `picked` [n] is the quality of what it gave out of such a set; nan if all are equal.

    1 for one that always finds the best, 0 for a random pick, below 0 for one that is worse, above 1 for a fuser that
    improves on the best.
    """
    mean, best = mean_quality(quality, counts).mean(), best_quality(quality, counts).mean()
    return float((picked.mean() - mean) / (best - mean)) if best > mean else float("nan")


def compare_sets(quality: Floats, first: Counts, second: Counts, *, skill: float, seed: int = 0) -> SetComparison:
    """Which of two sets is worth more to a ranker or fuser of this skill, with a 95 % paired bootstrap interval.

    `quality` is [n, members, samples]. Raises ValueError for sets that are empty or have more samples than recorded.
    """
    means = [mean_quality(quality, counts) for counts in (first, second)]
    bests = [best_quality(quality, counts) for counts in (first, second)]
    by_query = means[0] - means[1] + skill * ((bests[0] - means[0]) - (bests[1] - means[1]))
    difference = bootstrap(lambda rows: float(by_query[rows].mean()), len(by_query), seed=seed)
    mean, best = tuple(float(m.mean()) for m in means), tuple(float(b.mean()) for b in bests)
    at_zero, at_one = mean[0] - mean[1], best[0] - best[1]
    crosses = at_zero * at_one < 0
    break_even = at_zero / (at_zero - at_one) if crosses else None
    return SetComparison(skill, (mean[0], mean[1]), (best[0], best[1]), difference, break_even)


def sets_of(samples: Sequence[int], size: int) -> Iterator[dict[int, int]]:
    """Every set of `size` answers, of members that have so many samples each."""

    def rest(member: int, left: int) -> Iterator[dict[int, int]]:
        if left == 0:
            yield {}
        elif member < len(samples):
            for count in range(min(left, samples[member]), -1, -1):
                own = {member: count} if count else {}
                yield from (own | others for others in rest(member + 1, left - count))

    return rest(0, size)


def best_sets(
    quality: Floats, size: int, *, skill: float, allowed: Callable[[Counts], bool] = lambda counts: True
) -> tuple[Counts | None, Counts | None]:
    """The best allowed set of one member alone and the best mix, both of `size` answers; None where there is none."""
    samples = [int((~np.isnan(quality[:, member, :]).all(axis=0)).sum()) for member in range(quality.shape[1])]
    best: list[tuple[float, Counts | None]] = [(-np.inf, None), (-np.inf, None)]
    for counts in sets_of(samples, size):
        if not allowed(counts):
            continue
        mean = float(mean_quality(quality, counts).mean())
        worth = mean + skill * (float(best_quality(quality, counts).mean()) - mean)
        kind = int(len(counts) > 1)
        if worth > best[kind][0]:
            best[kind] = worth, counts
    return best[0][1], best[1][1]


def alone_or_mixed(quality: Floats, size: int, *, skill: float, seed: int = 0) -> tuple[Counts, Counts, SetComparison]:
    """The best set of one member alone, the best mix, and their comparison; both of `size` answers.

    The sets are chosen by the same recorded qualities, of which the mix is the best of many: measure it on others
    before it is relied on. Raises ValueError where there is no set of one of the kinds.
    """
    first, second = best_sets(quality, size, skill=skill)
    if first is None or second is None:
        what = "no member has" if first is None else "no two members have"
        raise ValueError(f"{what} samples for a set of {size} answers")
    return first, second, compare_sets(quality, first, second, skill=skill, seed=seed)


def _counted(counts: Counts) -> list[tuple[int, int]]:
    found = [(member, count) for member, count in counts.items() if count]
    if not found or any(count < 0 for _, count in found):
        raise ValueError(f"a set needs at least one answer, and no negative number of them: {dict(counts)}")
    return found
