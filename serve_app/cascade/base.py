"""The words of confidence cascades: what is judged of an answer, by which signal, at which level of which chain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.data.answers import AnswerEvidence


@dataclass(frozen=True, slots=True)
class Needs:
    """What a signal must be given: alternatives per token, further samples, self-verifications.

    `prior`: name of the router whose strong win rate is wanted; it must be at hand where the chain serves.
    """

    logprobs: bool = False
    top_logprobs: int = 0
    samples: int = 0
    verdicts: int = 0
    prior: str | None = None


class Signal(Protocol):
    """How sure an answer looks: a raw number, higher is surer; nan where it cannot be told."""

    @property
    def name(self) -> str:
        """Of its kind, as artefacts have it."""

    @property
    def needs(self) -> Needs:
        """What AnswerEvidence must hold."""

    def value(self, judged: AnswerEvidence) -> float:
        """The raw signal. Raises nothing for any text; a cascade goes on where it is nan."""


class Calibrator(Protocol):
    """A raw signal to the probability that the answer is right (isotonic or logistic), monotone and cheap."""

    def probability(self, value: float) -> float:
        """In [0, 1]; 0 for nan, of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Level:
    """One model of a chain: its answer is taken if the probability of being right is at least `threshold`.

    The last level of a chain has no judge: `signal` and `calibrator` are None, and its answer is always taken.
    """

    pool: str
    signal: Signal | None = None
    calibrator: Calibrator | None = None
    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A fitted cascade: weakest first. `expected` holds quality, cost_usd and the share each level answers, as fitted.

    `probe_tokens`: for a streaming chain, how many first tokens of a level are held and judged; None: whole answers.
    `models`: the model of each level whose answers it was fitted on, as its pool names it; () where nobody knows.
    """

    levels: tuple[Level, ...]
    version: str
    expected: Mapping[str, float] = field(default_factory=dict)
    probe_tokens: int | None = None
    models: tuple[str, ...] = ()
