"""When a fit is refused: it misses its own target, or a single model does as well for about the same cost.

Both are measured on queries that the chain was not fitted on, drawn at random and, once more, by kind: each group of
queries, or each fifth of them by length, is answered by a fit that saw none of its kind. Traffic shifts, and a chain
whose confidence holds only for the kinds it has seen costs more there than the model it ends with and adds nothing
(FrugalGPT's overruling, recounted on models of 2024).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import sqrt
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.fitting.held_out import HeldOut, drop, interval
from serve_app.data.recorded import Recorded
from serve_app.decision.target import COST, QUALITY_DROP, STRONG_SHARE, Target
from serve_app.errors import DataError, InsufficientData
from serve_app.learning.metrics import Interval
from serve_app.numbers import between, fixed, percent, significant

TIGHTER: Final = (1.0, 0.9, 0.75, 0.5, 0.25, 0.0)
"""Parts of a target that a fit aims at until held-out queries keep the target itself: thresholds that just keep it on
the queries they were chosen on miss it by as much as they were lucky there."""
_SURELY: Final = 0.5
"""Standard errors by which a chain must be better than a single model; see `GUARD` of cascade routing."""
_LEAST_SAVING: Final = 0.05
"""A chain that saves less against a model must be better than it: probing it is work, latency and risk for nothing."""
_MOST_REACHED: Final = 0.9
"""A chain that calls its last model this often is that model in disguise, and must be better than it."""
_FOLDS: Final = 5
_LARGEST_GROUP: Final = 0.5
"""With a larger part of the queries in one group, too few are left to fit on without it."""


def check_held_out(folds: NDArray[np.int64]) -> None:
    """Raises InsufficientData where all queries [n] are in one fold: the same text always falls into the same."""
    if len(np.unique(folds)) < 2:
        raise InsufficientData("all queries have one text: there is nothing to hold out; collect more")


def kinds_of(recorded: Recorded, folds: int = _FOLDS) -> tuple[NDArray[np.int64], str]:
    """A fold for each query, shape [n], so that one kind of query is in one fold; and what kinds these are."""
    n, sizes = len(recorded), Counter(recorded.groups)
    if len(sizes) > 1 and max(sizes.values()) <= _LARGEST_GROUP * n:
        filled = [0] * min(folds, len(sizes))
        fold_of = {}
        for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
            fold_of[name] = filled.index(min(filled))
            filled[fold_of[name]] += size
        return np.array([fold_of[name] for name in recorded.groups], dtype=np.int64), "group"
    lengths = {text: (len(text), crc32(text.encode("utf-8", "surrogatepass"))) for text in set(recorded.prompts)}
    place = {text: at for at, text in enumerate(sorted(lengths, key=lambda text: (lengths[text], text)))}
    return np.array([place[text] * folds // len(place) for text in recorded.prompts], dtype=np.int64), "length"


def aims(target: Target) -> Iterator[Target]:
    """The target, then tighter ones. A share or cost of 0 leaves nothing to choose, a quality drop of 0 does."""
    for part in TIGHTER:
        if part > 0 or target.name == QUALITY_DROP:
            yield replace(target, value=part * target.value)


def missed(held_out: HeldOut, recorded: Recorded, target: Target) -> str | None:
    """By how much held-out queries miss the target; None if they keep it.

    A drop is missed if its mean is: thresholds were chosen to keep it, which flatters them. A share or cost is missed
    beyond one standard error.
    """
    if target.name == QUALITY_DROP:
        found = drop(held_out.quality, recorded.of(held_out.models[-1:]).ok[:, 0])
        if found.value <= target.value + 1e-9:
            return None
        return f"quality drop {between(*(percent(part, 2) for part in (found.value, found.low, found.high)))}"
    values = held_out.reached.astype(np.float64) if target.name == STRONG_SHARE else held_out.cost_usd
    if values.mean() <= target.value * (1 + 1e-9) + float(values.std()) / sqrt(len(values)):
        return None
    found = interval(values)
    if target.name == COST:
        return f"{significant(found.value)} USD a query [{significant(found.low)}, {significant(found.high)}]"
    return f"strong share {between(*(percent(part) for part in (found.value, found.low, found.high)))}"


def on_target(fit: Callable[[Target], HeldOut | None], first: HeldOut, recorded: Recorded, target: Target) -> Target:
    """The loosest aim whose fit keeps the target on held-out queries; `first` is that of the target itself.

    Raises DataError naming by how much the target is missed where no tighter aim helps.
    """
    for aim in aims(target):
        held_out = first if aim == target else fit(aim)
        if held_out is not None and missed(held_out, recorded, target) is None:
            return aim
    raise DataError(
        f"the cascade {first.route()} misses its target {target} on held-out queries: {missed(first, recorded, target)}"
        f"; loosen --target, collect more answers than these {len(recorded):,}, or give other --signals or models"
    )


def check_worth(held_out: HeldOut, recorded: Recorded, where: str = "held-out queries") -> None:
    """Raises DataError if some single model does as well and costs about as much or less, or is all that is called."""
    best = _rival(held_out, recorded)
    if best is None:
        return
    cost, name = float(held_out.cost_usd.mean()), recorded.models[best]
    gain = held_out.quality - recorded.ok[:, best]
    if gain.mean() > 0 and gain.mean() >= _SURELY * gain.std() / sqrt(len(gain)):
        return
    what = "worse" if gain.mean() < 0 else "no better" if gain.mean() == 0 else "not surely better"
    found, alone = interval(gain), float(recorded.cost_usd[:, best].mean())
    share = f"{percent(cost / alone, 0)} of that" if alone > 0 else "more"
    raise DataError(
        f"the cascade {held_out.route()} is {what} than {name} alone, which costs {significant(alone)} USD a query "
        f"against {significant(cost)} ({share}; {percent(held_out.strong_share, 0)} of the queries reach "
        f"{held_out.models[-1]}): "
        f"quality {fixed(held_out.quality.mean(), 4)} against "
        f"{fixed(recorded.ok[:, best].mean(), 4)} on {where}, a difference of {_difference(found)}; use {name}, "
        "another target, other signals or models"
    )


def check_shifted(shifted: HeldOut, recorded: Recorded, kind: str) -> None:
    """The same on queries of kinds that the fit has not seen; one that is better there on average will do."""
    best = _rival(shifted, recorded)
    if best is not None and float((shifted.quality - recorded.ok[:, best]).mean()) <= 0:
        check_worth(shifted, recorded, f"queries of a {kind} that the fit has not seen")


def _rival(held_out: HeldOut, recorded: Recorded) -> int | None:
    """The best single model among those that cost about as much as the chain or less; None if there is none."""
    cost = float(held_out.cost_usd.mean())
    rivals = [i for i, mean in enumerate(recorded.cost_usd.mean(0)) if cost >= (1 - _LEAST_SAVING) * mean]
    if held_out.strong_share >= _MOST_REACHED:
        rivals.append(recorded.models.index(held_out.models[-1]))
    return max(rivals, key=lambda i: float(recorded.ok[:, i].mean()), default=None)


def held_out_by(
    folds: NDArray[np.int64],
    models: Sequence[str],
    answered: Callable[[int], tuple[NDArray[np.int64], Floats, Floats] | None],
) -> tuple[HeldOut | None, NDArray[np.bool_]]:
    """The chain over all queries, each by a fit without its fold, and which queries [n] have such a fit.

    `answered(fold)`: level, quality and cost of the fold's queries by a fit without it; None if it cannot keep its
    target. No HeldOut if no fold has one.
    """
    n = len(folds)
    level, quality, cost, known = np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n), np.zeros(n, dtype=bool)
    for fold in np.unique(folds).tolist():
        rows = np.flatnonzero(folds == fold)
        if (found := answered(fold)) is not None:
            level[rows], quality[rows], cost[rows] = found
            known[rows] = True
    if not known.any():
        return None, known
    return HeldOut(tuple(models), level[known], quality[known], cost[known]), known


def _difference(found: Interval) -> str:
    return between(*(fixed(part, 4, sign=True) for part in (found.value, found.low, found.high)))
