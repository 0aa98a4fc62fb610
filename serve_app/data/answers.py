"""The evidence on one answer that confidence signals read, and self-verification, which adds to it.

In self-verification the model judges its own answer several times: Aggarwal, Madaan et al. 2024
(AutoMix, arXiv 2310.12963, section 3.1). The prompt is ours; theirs asks whether a given context supports the answer,
which a query here need not have.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Final

from serve_app.types import Message, Query, Sampling, TokenLogprob

TEMPERATURE: Final = 0.7
"""AutoMix samples its verifications; at 0 all would be the same."""
EXTRA_TEMPERATURE: Final = 0.7
"""Of extra samples, drawn for agreement: at the answer's own 0 they would all be the same."""
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
class AnswerEvidence:
    """One answer of a pool, or its first tokens where `finished` is False, with all that signals read of it.

    `samples`: further answers of the same model to the same query; `verdicts`: its verdicts on its own answer, as
    fractions in [0, 1]; `prior`: the strong win rate that a router predicted for the query, None where none did;
    `confidence`: the raw signal that a file of recorded answers has, None elsewhere.
    """

    query: Query
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finished: bool = True
    samples: tuple[str, ...] = ()
    verdicts: tuple[float, ...] = ()
    prior: float | None = None
    confidence: float | None = None


def verification_query(evidence: AnswerEvidence, verdicts: int, seed: int | None = None) -> Query:
    """The query for `verdicts` verdicts on the answer, to be sent to the pool that wrote it."""
    system = _SYSTEM if evidence.finished else _OPENING
    what = "Proposed answer" if evidence.finished else "Opening of the proposed answer"
    content = f"Question:\n{evidence.query.text}\n\n{what}:\n{evidence.text}\n\nIs it correct? Reply yes or no."
    return Query(
        messages=(Message("system", system), Message("user", content)),
        sampling=Sampling(max_tokens=_MAX_TOKENS, temperature=TEMPERATURE, n=verdicts, seed=seed),
        user=evidence.query.user,
        tenant=evidence.query.tenant,
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
