"""Which answers a fuser should be given: samples of one model or a mix, by its skill on the user's own answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.ensemble.base import MemberCalls
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.shapes import described
from serve_app.ensemble.fusing.candidate_sets import Counts, SetComparison, best_sets, compare_sets, selection_skill
from serve_app.errors import DataError
from serve_app.numbers import between, fixed

Calls = tuple[MemberCalls, ...]
FusedQuality = Callable[[Calls, NDArray[np.int64]], Floats]
"""Quality of the answers fused from those of some calls, to the queries at some rows, shape [rows]."""
_PILOT: Final = 200
"""Queries on which the skill of a fuser is measured before sets are chosen for it."""


@dataclass(frozen=True, slots=True)
class CandidateSets:
    """The best set of one member's samples and the best mix for a fuser; `alone` or `mixed` is None without one."""

    alone: Calls | None
    mixed: Calls | None
    comparison: SetComparison | None = None

    @property
    def calls(self) -> list[Calls]:
        """Those there are, the surely better one first."""
        found = [one for one in (self.alone, self.mixed) if one is not None]
        return found[::-1] if self.comparison is not None and self.comparison.better == 1 else found

    def __str__(self) -> str:
        if self.alone is None or self.mixed is None or self.comparison is None:
            return f"{described((self.calls[0],))}: there is no other kind of set"
        found = self.comparison
        gain = between(*(fixed(-x, 4, sign=True) for x in (found.difference.value, found.difference.high,
                                                          found.difference.low)))  # fmt: skip
        verdict = {0: "one model's samples", 1: "the mix", None: "neither surely"}[found.better]
        return (
            f"{described((self.alone,))} or {described((self.mixed,))}: at the fuser's skill of "
            f"{fixed(found.skill, 2)} the mix is worth {gain} more: {verdict}"
        )


def candidate_sets(
    answers: Answers, size: int, samples: int, affordable: Callable[[Calls], bool], fused: FusedQuality
) -> CandidateSets:
    """The best affordable sets of `size` answers. Raises DataError where there is none.

    Sets are first chosen for a fuser that finds the best candidate; its skill is then measured on these, and they are
    chosen again.
    """
    quality = padded([values[:, :samples] for values in answers.quality])

    def calls_of(counts: Counts) -> Calls:
        return tuple(MemberCalls(answers.names[member], count) for member, count in sorted(counts.items()))

    def best(skill: float) -> tuple[Counts | None, Counts | None]:
        return best_sets(quality, size, skill=skill, allowed=lambda counts: affordable(calls_of(counts)))

    tried = [counts for counts in best(1.0) if counts is not None]
    if not tried:
        raise DataError(f"no {size} recorded answers are within the limits: raise them, or fuse fewer")
    rows = np.unique(np.linspace(0, len(answers) - 1, min(_PILOT, len(answers))).astype(np.int64))
    skills = [selection_skill(fused(calls_of(one), rows), quality[rows], one) for one in tried]
    known = [skill for skill in skills if np.isfinite(skill)]
    skill = float(np.mean(known)) if known else 1.0
    alone, mixed = best(skill)
    return CandidateSets(
        None if alone is None else calls_of(alone),
        None if mixed is None else calls_of(mixed),
        compare_sets(quality, alone, mixed, skill=skill) if alone is not None and mixed is not None else None,
    )


def padded(quality: list[Floats]) -> Floats:
    """Of members with different numbers of samples: [n, members, most samples], nan where there is none."""
    found = np.full((len(quality[0]), len(quality), max(values.shape[1] for values in quality)), np.nan)
    for member, values in enumerate(quality):
        found[:, member, : values.shape[1]] = values
    return found
