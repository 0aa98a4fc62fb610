"""Which levels are skipped: those whose answer could not convince, and those that could not answer in time.

Where a signal weighs a router's prior, there may be a prior beyond which even an answer whose every token is certain
stays below the threshold. Calling the level then only costs tokens and time. The limit is found from signal and
calibrator themselves, with answers of every length and certainty; nothing new is fitted.

The usual duration of a pool's calls is a smoothed mean and deviation, as TCP keeps them of round trips (Jacobson 1988;
RFC 6298, section 2).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import exp, log
from time import monotonic
from typing import Final

from serve_app.cascade.base import Chain, Level
from serve_app.data.answers import AnswerEvidence
from serve_app.types import Message, Query, TokenLogprob
from serve_app.wire.frames import Call

_CERTAIN: Final = (1 - 1e-6, 0.9999, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5)
"""Probabilities of every token of the answers tried; not only the surest, as weights of like signals may differ in
sign."""
_LENGTHS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
_STEPS: Final = 20
_QUERY: Final = Query((Message("user", "?"),))


def with_prior_limits(chain: Chain) -> Chain:
    """The chain with each level's `prior_limit`."""
    limits = [prior_limit(level, chain.probe_tokens) for level in chain.levels]
    levels = [lv if x is None else replace(lv, prior_limit=x) for lv, x in zip(chain.levels, limits, strict=True)]
    return replace(chain, levels=tuple(levels))


def prior_limit(level: Level, probe_tokens: int | None = None) -> float | None:
    """The strong win rate above which no answer of the level is taken; None where the prior rules nothing out.

    `probe_tokens`: so many first tokens are checked. Only for signals of log-probabilities and a prior: the results of
    further calls are not known.
    """
    if level.signal is None or level.calibrator is None:
        return None
    needs = level.signal.needs
    if needs.prior is None or needs.samples or needs.verdicts:
        return None
    answers = list(_answers(probe_tokens))
    if _best(level, 1.0, answers) >= level.threshold:
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _best(level, middle, answers) >= level.threshold else (low, middle)
    return high


def _best(level: Level, prior: float, answers: list[tuple[tuple[TokenLogprob, ...], bool]]) -> float:
    """The largest probability of being correct that any of the answers gets."""
    assert level.signal is not None and level.calibrator is not None
    found = []
    for tokens, finished in answers:
        text = "x" * len(tokens)
        value = level.signal.value(AnswerEvidence(_QUERY, text, tokens, finished, prior=prior))
        found.append(level.calibrator.probability(value))
    return max(found)


def _answers(probe_tokens: int | None) -> Iterator[tuple[tuple[TokenLogprob, ...], bool]]:
    """Answers of equally certain tokens, whole ones and, with a probe, unfinished ones of its length."""
    lengths = _LENGTHS if probe_tokens is None else tuple(range(1, min(probe_tokens, _LENGTHS[-1]) + 1))
    for certain in _CERTAIN:
        token = TokenLogprob("x", log(certain), (("x", log(certain)), *_others(certain)))
        for length in lengths:
            yield (token,) * length, True
        if probe_tokens is not None:
            yield (token,) * probe_tokens, False


def _others(certain: float) -> tuple[tuple[str, float], ...]:
    """Four alternatives, each half as likely as the one before."""
    return tuple((name, log((1 - certain) * exp(-log(2) * (rank + 1)))) for rank, name in enumerate("abcd"))


_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 4
RESERVE_S: Final = 0.05
"""An answer is sent at the latest so long before the deadline; parsing and sending it takes a few ms."""


@dataclass(slots=True)
class LatencyEstimate:
    """Durations of one Gateway's calls by pool; on one event loop. `least_s`: required for a call whatever was seen."""

    least_s: float = 1.0
    clock: Callable[[], float] = monotonic
    _known: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, pool: str, seconds: float) -> None:
        """A call ended with an answer."""
        known = self._known.get(pool)
        if known is None:
            self._known[pool] = (seconds, seconds / 2)
            return
        mean, deviation = known
        deviation += _DEVIATION_GAIN * (abs(seconds - mean) - deviation)
        self._known[pool] = (mean + _GAIN * (seconds - mean), deviation)

    def usual_s(self, pool: str) -> float:
        """What a call takes at most, usually; 0 for a pool without calls."""
        mean, deviation = self._known.get(pool, (0.0, 0.0))
        return mean + _DEVIATIONS * deviation

    def left_s(self, call: Call) -> float | None:
        """Seconds until an answer must be there; None without a deadline."""
        return None if call.deadline_s is None else call.deadline_s - self.clock() - RESERVE_S

    def allows(self, pool: str, call: Call) -> bool:
        """Whether a call to the pool is expected to end in time."""
        left = self.left_s(call)
        return left is None or left >= max(self.least_s, self.usual_s(pool))
