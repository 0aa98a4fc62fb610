"""Candidate answers as they came in: what each says, in which form it is compared, and what rules it out.

A tool call counts as its canonical JSON, so that two calls that differ in spacing or in the order of arguments are the
same answer. An answer with a flaw is kept, and wins only where every other has a worse one. What says nothing at all is
no candidate: the member has failed. It is an answer, though a flawed one, where the caller can tell why it is empty: by
its end (length, content filter), by a refusal or thoughts next to the content, or by stop sequences of the request.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import orjson

from serve_app.data.near_duplicates import normalise
from serve_app.ensemble.base import Vote
from serve_app.ensemble.serving.calls import HeldCall
from serve_app.grading.normalizers import Normalizer
from serve_app.types import Query
from serve_app.wire.answers import ChoiceText, invalid_call, text_of

SOUND, CUT, FAULTY, EMPTY, NOTHING = range(5)
"""How much is wrong with a candidate. Those of the least of these present are compared, but never NOTHING."""

logger = logging.getLogger("jethro.ensemble")


@dataclass(slots=True, eq=False)
class HeldAnswer:
    """One candidate. `choice`: its position in the call; None for all choices together, as the caller requested them.

    `texts` and `keys`, one a choice: as read, and as compared. `flaw` says in words what is wrong, `severity` how much.
    `logprob`: mean of its tokens, None without.
    """

    call: HeldCall
    choice: int | None
    texts: tuple[str, ...]
    keys: tuple[str, ...]
    severity: int = SOUND
    flaw: str = ""
    logprob: float | None = None
    calls_tools: bool = False

    @property
    def member(self) -> str:
        """The pool, or pool/adapter, that wrote it."""
        return self.call.member.name

    @property
    def model(self) -> str:
        """The model of that pool, with the adapter."""
        adapter = self.call.member.adapter
        return self.call.pool.model if adapter is None else f"{self.call.pool.model}/{adapter}"

    @property
    def label(self) -> str:
        """Names it among the candidates: the member, with the number of the sample where it has several."""
        number = self.call.first + (self.choice or 0)
        return f"{self.member}#{number}" if self.call.member.samples > 1 or number else self.member

    @property
    def votes(self) -> list[Vote]:
        """One a choice."""
        return [Vote(self.member, key, self.tokens) for key in self.keys]

    @property
    def tokens(self) -> float | None:
        """Completion tokens of a choice, the mean of the call's; None where the call reported none."""
        usage, choices = self.call.usage or self.call.reading.usage, len(self.call.reading.choices)
        return usage.completion_tokens / choices if usage is not None and choices else None

    @property
    def merged_by(self) -> tuple[str, ...]:
        """Candidates with the same are near-duplicates: they differ in case, punctuation and spacing only."""
        return tuple(normalise(text) if not self.calls_tools else text for text in self.texts)


def answers_in(call: HeldCall, query: Query, normalize: Normalizer) -> list[HeldAnswer]:
    """The candidates of a finished call: one a sample, or one of all the choices that the caller requested."""
    if not call.whole:
        return []
    said = [choice for _, choice in sorted(call.reading.choices.items())]
    if query.sampling.n > 1 or len(said) == 1:
        return [_held(call, None, said, query, normalize)]
    return [_held(call, i, [one], query, normalize) for i, one in sorted(call.reading.choices.items())]


def eligible(held: Sequence[HeldAnswer]) -> list[HeldAnswer]:
    """Those that may win: with the least wrong about them."""
    least = min((one.severity for one in held), default=SOUND)
    return [one for one in held if one.severity == least]


def merged(held: Sequence[HeldAnswer]) -> list[list[HeldAnswer]]:
    """Groups of near-duplicates, in order of their first."""
    groups: dict[tuple[str, ...], list[HeldAnswer]] = {}
    for one in held:
        groups.setdefault(one.merged_by, []).append(one)
    return list(groups.values())


def _held(
    call: HeldCall, choice: int | None, said: Sequence[ChoiceText], query: Query, normalize: Normalizer
) -> HeldAnswer:
    keys = tuple(compared(one, normalize) for one in said)
    flaws = [_flaw(one, key, query) for one, key in zip(said, keys, strict=True)]
    severity, flaw = max(flaws, key=lambda found: found[0])
    if not query.sampling.stop and all(one.says_nothing for one in said):
        severity = NOTHING
    values = [t.logprob for one in said for t in one.logprobs if not isnan(t.logprob)]
    return HeldAnswer(
        call,
        choice,
        tuple(text_of(one) for one in said),
        keys,
        severity,
        flaw,
        sum(values) / len(values) if values else None,
        any(one.calls for one in said),
    )


def compared(said: ChoiceText, normalize: Normalizer) -> str:
    """The form in which a choice is compared: its tool calls as canonical JSON, or its normalized text."""
    if said.calls:
        return "\n".join(_canonical(call) for _, call in sorted(said.calls.items()))
    try:
        return normalize(said.text)
    except Exception:  # an answer must not be lost to a form that fails
        logger.exception("an answer could not be normalized")
        return normalise(said.text)


def _canonical(call: dict[str, str]) -> str:
    try:
        arguments = orjson.dumps(orjson.loads(call["arguments"] or "{}"), option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:
        arguments = call["arguments"]
    return f"{call['name']}({arguments})"


def _flaw(said: ChoiceText, key: str, query: Query) -> tuple[int, str]:
    """How much is wrong with a choice that is compared as `key`, and what."""
    if not key:
        return EMPTY, "says nothing"
    if why := invalid_call(said, query):
        return FAULTY, why
    if said.finish_reason == "content_filter":
        return FAULTY, "was cut by a content filter"
    if said.finish_reason == "length":
        return CUT, "was cut off by its length"
    kind = str((query.response_format or {}).get("type", ""))
    if kind.startswith("json") and not said.calls and not _is_json(said.text):
        return FAULTY, "is not the JSON requested"
    return SOUND, ""


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
