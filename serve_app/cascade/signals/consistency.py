"""Agreement among several answers of one model: the share of further samples that say the same as the answer.

Self-verification (AutoMix): the model that answered is asked, several times, whether its answer is right.

Aggarwal, Madaan et al. 2024 (arXiv 2310.12963, section 3.1): the fraction of "yes" among samples at a temperature
above 0. The prompt is ours; theirs asks whether a given context supports the answer, which a query here need not have.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import ClassVar, Final

from serve_app.cascade.base import Judged, Needs
from serve_app.errors import ConfigError
from serve_app.types import Message, Query, Sampling

_EDGES: Final = " \t\r\n.,;:!?\"'`*"
"""What stands around an answer and says nothing; a sign or a bracket would say something."""


@dataclass(frozen=True, slots=True)
class Agreement:
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

    def value(self, judged: Judged) -> float:
        """In [0, 1]; nan without samples, or before the answer says anything."""
        said = normalised(judged.text)
        if not judged.samples or (not said and not judged.finished):
            return nan
        others = [normalised(sample) for sample in judged.samples]
        same = [other == said if judged.finished else other.startswith(said) for other in others]
        return sum(same) / len(same)


def normalised(text: str) -> str:
    """Composed, lower case, single spaces, without punctuation at the ends ("-5" and "5" stay different)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


TEMPERATURE: Final = 0.7
"""AutoMix samples its verifications; at 0 all would be the same."""
_MAX_TOKENS: Final = 16
_SYSTEM: Final = (
    "You check answers. You are given a question and a proposed answer. Decide whether the proposed answer is correct "
    "and complete. Reply with one word: yes or no."
)
_OPENING: Final = (
    "You are given a question and only the opening of a proposed answer. Decide whether the opening is on the way to a "
    "correct and complete answer. Reply with one word: yes or no."
)
_WORDS: Final = {
    **dict.fromkeys(("yes", "y", "correct", "true", "right"), 1.0),
    **dict.fromkeys(("no", "n", "incorrect", "false", "wrong"), 0.0),
}
_NEGATIONS: Final = frozenset({"not", "never", "isn't", "isnt"})


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

    def value(self, judged: Judged) -> float:
        """In [0, 1]; nan where none could be read."""
        known = [v for v in judged.verdicts if not isnan(v)]
        return sum(known) / len(known) if known else nan


def verification_query(judged: Judged, verdicts: int, seed: int | None = None) -> Query:
    """The query that asks for `verdicts` verdicts on the answer, to be sent to the pool that gave it."""
    system = _SYSTEM if judged.finished else _OPENING
    what = "Proposed answer" if judged.finished else "Opening of the proposed answer"
    asked = f"Question:\n{judged.query.text}\n\n{what}:\n{judged.text}\n\nIs it correct? Reply yes or no."
    return Query(
        messages=(Message("system", system), Message("user", asked)),
        sampling=Sampling(max_tokens=_MAX_TOKENS, temperature=TEMPERATURE, n=verdicts, seed=seed),
        user=judged.query.user,
        tenant=judged.query.tenant,
    )


def parse_verdict(text: str) -> float:
    """1 for yes, 0 for no, nan for what is neither. The first word that says either counts; "not correct" is no."""
    negated = False
    for word in re.findall(r"[a-z']+", text.casefold()):
        if word in _WORDS:
            verdict = _WORDS[word]
            return 1.0 - verdict if negated and word not in ("yes", "y", "no", "n") else verdict
        negated = word in _NEGATIONS
    return nan


def parse_verdicts(texts: Sequence[str]) -> tuple[float, ...]:
    """Verdicts of several texts; those that say neither are left out."""
    return tuple(v for v in map(parse_verdict, texts) if not isnan(v))
