"""The contracts of cascades: a signal of an answer, its calibrator, a level, and the chain of levels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.data.answers import AnswerEvidence


@dataclass(frozen=True, slots=True)
class Needs:
    """What a signal requires: log-probabilities with alternatives, and how many further samples and verdicts.

    `prior`: name of the router whose strong win rate it reads; that router must be available where the chain serves.
    """

    logprobs: bool = False
    top_logprobs: int = 0
    samples: int = 0
    verdicts: int = 0
    prior: str | None = None


class Signal(Protocol):
    """How sure an answer looks: a raw number, higher is surer; nan where it is undefined."""

    @property
    def name(self) -> str:
        """Of its kind, as artefacts have it."""

    @property
    def needs(self) -> Needs:
        """What the evidence must hold."""

    def value(self, evidence: AnswerEvidence) -> float:
        """The raw signal. Raises nothing for any text; a cascade escalates where it is nan."""


class Calibrator(Protocol):
    """A raw signal to the probability that the answer is correct, monotone and cheap."""

    def probability(self, value: float) -> float:
        """In [0, 1]; 0 for nan."""


@dataclass(frozen=True, slots=True)
class Level:
    """One model of a chain: its answer is taken if the probability of being correct is at least `threshold`.

    The last level of a chain has neither `signal` nor `calibrator`: its answer is always taken. Above `prior_limit`, a
    router's strong win rate, no answer of the level could be taken.
    """

    pool: str
    signal: Signal | None = None
    calibrator: Calibrator | None = None
    threshold: float = 0.0
    prior_limit: float = 1.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A fitted cascade: weakest first. `expected` holds quality, cost_usd and the share each level answers, as fitted.

    `probe_tokens`: for a streaming chain, how many first tokens of a level are held and checked; None: whole answers.
    `models`: the model of each level whose answers it was fitted on, as its pool names it; () if unknown.
    """

    levels: tuple[Level, ...]
    version: str
    expected: Mapping[str, float] = field(default_factory=dict)
    probe_tokens: int | None = None
    models: tuple[str, ...] = ()
