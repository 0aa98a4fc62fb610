"""Signals of consistency: agreement among several answers of one model, and its verdicts on its own answer.

The prompt of self-verification and the reader of its verdicts are in `serve_app.data.answers`.
"""

from dataclasses import dataclass
from math import isnan, nan
from typing import ClassVar

from serve_app.cascade.base import Needs
from serve_app.data.answers import AnswerEvidence
from serve_app.errors import ConfigError
from serve_app.grading.normalizers import plain_text


@dataclass(frozen=True, slots=True)
class AnswerAgreement:
    """Share of `samples` further answers that equal the answer once normalised (answer consistency; Yue et al. 2024).

    Of an unfinished answer: the share of samples that begin with it.
    """

    samples: int = 4
    name: ClassVar[str] = "agreement"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"agreement: samples is {self.samples}; give at least 1")

    @property
    def needs(self) -> Needs:
        """Further samples, at a temperature above 0."""
        return Needs(samples=self.samples)

    def value(self, evidence: AnswerEvidence) -> float:
        """In [0, 1]; nan without samples, or before the answer says anything."""
        said = plain_text(evidence.text)
        if not evidence.samples or (not said and not evidence.finished):
            return nan
        others = [plain_text(sample) for sample in evidence.samples]
        same = [other == said if evidence.finished else other.startswith(said) for other in others]
        return sum(same) / len(same)


@dataclass(frozen=True, slots=True)
class SelfVerification:
    """Mean of `verdicts` self-verifications: p of AutoMix."""

    verdicts: int = 8
    name: ClassVar[str] = "self_verification"

    def __post_init__(self) -> None:
        if self.verdicts < 1:
            raise ConfigError(f"self_verification: verdicts is {self.verdicts}; give at least 1")

    @property
    def needs(self) -> Needs:
        """Self-verifications."""
        return Needs(verdicts=self.verdicts)

    def value(self, evidence: AnswerEvidence) -> float:
        """In [0, 1]; nan where none could be read."""
        known = [v for v in evidence.verdicts if not isnan(v)]
        return sum(known) / len(known) if known else nan
