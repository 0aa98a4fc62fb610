"""Signals read off an answer's own tokens: log-probabilities, margins, entropy, length; and the router's prior.

All are "higher is surer". They work on the first tokens of an answer as well. Sums are biased against long answers;
quantiles of token log-probabilities are the better signal of a whole answer (Gupta et al. 2024, arXiv 2404.10136).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, floor, isnan, log, nan
from typing import ClassVar, Final, Literal

from serve_app.cascade.base import Needs
from serve_app.data.answers import AnswerEvidence
from serve_app.errors import ConfigError
from serve_app.types import TokenLogprob

Reduce = Literal["mean", "worst", "first"]
_ALTERNATIVES: Final = 5
"""Top log-probabilities requested: OpenAI and vLLM return 5 by default; the remaining mass is one bucket."""
_EPSILON: Final = 1e-6
_TOKENS: Final = Needs(logprobs=True)


class _Logprobs(ABC):
    """A figure of the token log-probabilities that are known; minus infinity stays what it is."""

    needs: ClassVar[Needs] = _TOKENS

    def value(self, evidence: AnswerEvidence) -> float:
        """At most 0; nan without tokens."""
        known = [token.logprob for token in evidence.logprobs if not isnan(token.logprob)]
        return self._of(known) if known else nan

    @abstractmethod
    def _of(self, known: list[float]) -> float: ...


@dataclass(frozen=True, slots=True)
class MeanLogprob(_Logprobs):
    """Mean token log-probability: the log of the answer's geometric mean token probability."""

    name: ClassVar[str] = "mean_logprob"

    def _of(self, known: list[float]) -> float:
        return sum(known) / len(known)


@dataclass(frozen=True, slots=True)
class SumLogprob(_Logprobs):
    """Log-probability of the whole answer (or of its first tokens)."""

    name: ClassVar[str] = "sum_logprob"

    def _of(self, known: list[float]) -> float:
        return sum(known)


@dataclass(frozen=True, slots=True)
class MinLogprob(_Logprobs):
    """Log-probability of the least likely token."""

    name: ClassVar[str] = "min_logprob"

    def _of(self, known: list[float]) -> float:
        return min(known)


@dataclass(frozen=True, slots=True)
class QuantileLogprob(_Logprobs):
    """A quantile of the token log-probabilities, linear between neighbours; `quantile` in [0, 1]."""

    quantile: float = 0.1
    name: ClassVar[str] = "quantile_logprob"

    def __post_init__(self) -> None:
        if not 0.0 <= self.quantile <= 1.0:
            raise ConfigError(f"quantile_logprob: quantile is {self.quantile}; give a number in [0, 1]")

    def _of(self, known: list[float]) -> float:
        values = sorted(known)
        at = self.quantile * (len(values) - 1)
        below = floor(at)
        above = min(below + 1, len(values) - 1)
        return values[below] + (at - below) * (values[above] - values[below])


class _Reduced(ABC):
    """A figure of each token, `reduce`d over those that have one: their mean, the worst (smallest) or the first."""

    name: ClassVar[str]
    reduce: Reduce

    def __post_init__(self) -> None:
        if self.reduce not in _REDUCERS:
            raise ConfigError(f"{self.name}: reduce is {self.reduce!r}; give one of {', '.join(_REDUCERS)}")

    def value(self, evidence: AnswerEvidence) -> float:
        """A margin is in [0, 1], an entropy at most 0; nan where no token has alternatives enough."""
        known = [value for token in evidence.logprobs if not isnan(value := self._of(token))]
        return _REDUCERS[self.reduce](known) if known else nan

    @abstractmethod
    def _of(self, token: TokenLogprob) -> float: ...


@dataclass(frozen=True, slots=True)
class Margin(_Reduced):
    """Probability of the likeliest token less that of the next one (margin sampling; Scheffer et al. 2001)."""

    reduce: Reduce = "worst"
    name: ClassVar[str] = "margin"
    needs: ClassVar[Needs] = Needs(logprobs=True, top_logprobs=2)
    """Of two alternatives the sampled token may be neither."""

    def _of(self, token: TokenLogprob) -> float:
        known = sorted((value for _, value in token.top if not isnan(value)), reverse=True)
        return exp(min(known[0], 0.0)) - exp(min(known[1], 0.0)) if len(known) > 1 else nan


@dataclass(frozen=True, slots=True)
class Entropy(_Reduced):
    """Negative entropy of the token distributions, in nats: 0 is certain, others are below.

    Of the alternatives that are known; all others count as one more, so that it never overstates.
    """

    reduce: Reduce = "mean"
    name: ClassVar[str] = "entropy"
    needs: ClassVar[Needs] = Needs(logprobs=True, top_logprobs=_ALTERNATIVES)

    def _of(self, token: TokenLogprob) -> float:
        known = [exp(min(value, 0.0)) for _, value in token.top if not isnan(value)]
        if not known:
            return nan
        others = max(0.0, 1.0 - sum(known))
        return sum(p * log(p) for p in (*known, others) if p > 0.0)


@dataclass(frozen=True, slots=True)
class Brevity:
    """Minus the logarithm of one plus the number of tokens: alone hardly a signal, combined it corrects sums."""

    name: ClassVar[str] = "brevity"
    needs: ClassVar[Needs] = _TOKENS

    def value(self, evidence: AnswerEvidence) -> float:
        """At most 0; nan without tokens."""
        return -log(1 + len(evidence.logprobs)) if evidence.logprobs else nan


@dataclass(frozen=True, slots=True)
class Prior:
    """A router's prediction before any answer: minus the log-odds of its strong win rate.

    `router` is a reference, see `routing.reference`: a fit pins the version that made the scores.
    """

    router: str = "complexity"
    name: ClassVar[str] = "prior"

    @property
    def needs(self) -> Needs:
        """The router's score."""
        return Needs(prior=self.router)

    def value(self, evidence: AnswerEvidence) -> float:
        """Bounded by the log-odds of 1e-6; nan without a score."""
        if evidence.prior is None or isnan(evidence.prior):
            return nan
        prior = min(max(evidence.prior, _EPSILON), 1 - _EPSILON)
        return log((1 - prior) / prior)


@dataclass(frozen=True, slots=True)
class RecordedConfidence:
    """The confidence that a file of recorded answers has, whatever made it: to compare with, never to serve."""

    name: ClassVar[str] = "recorded"
    needs: ClassVar[Needs] = Needs()

    def value(self, evidence: AnswerEvidence) -> float:
        """As recorded; nan for an answer without, which every served answer is."""
        return nan if evidence.confidence is None else evidence.confidence


_REDUCERS: Final[Mapping[Reduce, Callable[[list[float]], float]]] = {
    "mean": lambda values: sum(values) / len(values),
    "worst": min,
    "first": lambda values: values[0],
}
