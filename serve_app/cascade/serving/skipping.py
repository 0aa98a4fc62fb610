"""Which queries no answer of a level could convince for: those that the router's prior rules out on its own.

Where a judge weighs the prior, there is a prior beyond which even an answer whose every token is certain stays below
the threshold. Asking the level then only costs tokens and time, so it is passed over. The limit is found from the
judge itself, by showing it answers of every length and certainty; nothing new is fitted.

How long a pool's calls usually take, so that none is begun that could not end before the caller's deadline.

Smoothed mean and deviation as TCP keeps them of round trips (Jacobson 1988; RFC 6298, section 2).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import exp, log
from time import monotonic
from typing import Final

from serve_app.cascade.base import Level
from serve_app.data.answers import AnswerEvidence
from serve_app.types import Message, Query, TokenLogprob
from serve_app.wire.frames import Call

_CERTAIN: Final = (1 - 1e-6, 0.9999, 0.999, 0.99, 0.95, 0.9, 0.75, 0.5)
"""Probabilities of every token of an answer that is shown; not only the surest, as weights of like signals may differ
in sign."""
_LENGTHS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
_STEPS: Final = 20
_QUERY: Final = Query((Message("user", "?"),))


def prior_limit(level: Level, probe_tokens: int | None = None) -> float | None:
    """The strong win rate above which no answer of the level is taken; None where the prior rules nothing out.

    `probe_tokens`: so many first tokens are judged. Only for judges that read log-probabilities and a prior, and no
    further calls: what those would say is not known.
    """
    if level.signal is None or level.calibrator is None:
        return None
    needs = level.signal.needs
    if needs.prior is None or needs.samples or needs.verdicts:
        return None
    shown = list(_shown(probe_tokens))
    if _best(level, 1.0, shown) >= level.threshold:
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _best(level, middle, shown) >= level.threshold:
            low = middle
        else:
            high = middle
    return high


def _best(level: Level, prior: float, shown: list[tuple[tuple[TokenLogprob, ...], bool]]) -> float:
    """The largest probability of being right that any answer gets."""
    assert level.signal is not None and level.calibrator is not None
    found = []
    for tokens, finished in shown:
        text = "x" * len(tokens)
        value = level.signal.value(AnswerEvidence(_QUERY, text, tokens, finished, prior=prior))
        found.append(level.calibrator.probability(value))
    return max(found)


def _shown(probe_tokens: int | None) -> Iterator[tuple[tuple[TokenLogprob, ...], bool]]:
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
"""An answer at hand is sent at latest so long before the deadline; parsing and sending it takes a few ms."""


@dataclass(slots=True)
class Patience:
    """Durations of one Gateway's calls by pool; on one event loop. `least_s` is wanted at least, whatever was seen."""

    least_s: float = 1.0
    clock: Callable[[], float] = monotonic
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def took(self, pool: str, seconds: float) -> None:
        """A call ended with an answer."""
        known = self._seen.get(pool)
        if known is None:
            self._seen[pool] = (seconds, seconds / 2)
            return
        mean, deviation = known
        deviation += _DEVIATION_GAIN * (abs(seconds - mean) - deviation)
        self._seen[pool] = (mean + _GAIN * (seconds - mean), deviation)

    def usual_s(self, pool: str) -> float:
        """What a call takes at most, usually; 0 for a pool never asked."""
        mean, deviation = self._seen.get(pool, (0.0, 0.0))
        return mean + _DEVIATIONS * deviation

    def left_s(self, call: Call) -> float | None:
        """Seconds in which an answer must be there; None without a deadline."""
        return None if call.deadline_s is None else call.deadline_s - self.clock() - RESERVE_S

    def allows(self, pool: str, call: Call) -> bool:
        """Whether a call to the pool may be expected to end in time."""
        left = self.left_s(call)
        return left is None or left >= max(self.least_s, self.usual_s(pool))
