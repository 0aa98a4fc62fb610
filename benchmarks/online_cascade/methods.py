"""The methods that are compared, each by name: how one replays a stream under a budget of LLM calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.online_cascade.episodes import (
    LLM,
    ByMargin,
    Replayed,
    Taught,
    at_random,
    cascade,
    distilled,
    first,
    online,
)
from benchmarks.online_cascade.stream import Recorded
from serve_app.streams.online.base import StreamSpec
from serve_app.streams.online.settings import FIXES, plain, settings_of

CASCADE, PLAIN = "online cascade", "released algorithm"
LEARNED = "cascade, deferral learned"
MARGIN, ENSEMBLE, FRONT, RANDOM = "margin sampling", "online ensemble", "front-loading", "random"
MARGIN_TWO = f"{MARGIN}, the cascade's students"
LLM_ALONE = "LLM alone"
NO_BASELINES = (CASCADE, LEARNED, PLAIN, LLM_ALONE)
"""The cascade, what it is with a part more or without our changes, and what makes other numbers of calls."""
MARGIN_FIRST = 100
"""LLM labels that margin sampling begins with, as its authors' runs on ISEAR do."""
PLAIN_PARAMS = {"encoder.decay": 0.9, "encoder.calibration": 0.45, "logistic.decay": 0.8, "logistic.calibration": 0.15}
"""The authors' values for ISEAR (LR + BERT-base)."""
PLAIN_MU = (1.6e-3, 2e-3, 2.2e-3, 2.5e-3, 3e-3, 4e-3, 6e-3, 1e-2)
"""The released algorithm has no budget: its price is swept, and of each seed the replay whose calls come nearest to a
budget stands for it, which could not have been chosen beforehand."""


@dataclass(frozen=True, slots=True)
class Job:
    """One replay: `calls` is what the cascade of the same share and seed made; baselines make just as many."""

    stream: Recorded
    other: Recorded
    spec: StreamSpec
    calls: int


def _cascade(job: Job) -> Replayed:
    return cascade(job.stream, job.spec)


def released(mu: float) -> Callable[[Job], Replayed]:
    """The algorithm as its authors' code has it, at that price."""
    return lambda job: cascade(job.stream, replace(job.spec, mu=mu, llm_share=None, fixes=plain(), params=PLAIN_PARAMS))


def _llm(job: Job) -> Replayed:
    return Replayed(job.stream.expert, np.full(len(job.stream), LLM), len(job.stream))


def _taught(job: Job, averaged: bool = False, kind: str | None = None) -> Taught:
    """The students of a baseline: the cascade's, or that one of them; they learn the LLM's labels as they arrive."""
    levels = job.spec.levels if kind is None else (kind,)
    return Taught(replace(job.spec, levels=levels, fixes={**job.spec.fixes, "balanced": False}), averaged)


def _margin(job: Job) -> Replayed:
    asks = ByMargin(job.calls, len(job.stream), min(MARGIN_FIRST, job.calls), settings_of(job.spec).price_step)
    return online(job.stream, _taught(job, kind=job.spec.levels[-1]), asks)


def _margin_two(job: Job) -> Replayed:
    settings = settings_of(job.spec)
    asks = ByMargin(job.calls, len(job.stream), int(settings.front_load * job.calls), settings.price_step)
    return online(job.stream, _taught(job), asks)


def _ensemble(job: Job) -> Replayed:
    asks = at_random(job.calls, len(job.stream), job.spec.seed, falling=True)
    return online(job.stream, _taught(job, averaged=True), asks)


def _front(job: Job) -> Replayed:
    return online(job.stream, _taught(job), first(job.calls))


def _random(job: Job) -> Replayed:
    return online(job.stream, _taught(job), at_random(job.calls, len(job.stream), job.spec.seed))


def _distilled(job: Job) -> Replayed:
    return distilled(job.stream, _taught(job), job.other, job.calls)


def _alone(kind: str) -> Callable[[Job], Replayed]:
    return lambda job: online(job.stream, _taught(job, kind=kind), first(job.calls), own=True)


def _distilled_alone(kind: str) -> Callable[[Job], Replayed]:
    return lambda job: distilled(job.stream, _taught(job, kind=kind), job.other, job.calls)


def without(*changes: str) -> Callable[[Job], Replayed]:
    """The cascade with changes switched off."""
    return lambda job: cascade(job.stream, replace(job.spec, fixes=dict.fromkeys(changes, False)))


METHODS: Mapping[str, Callable[[Job], Replayed]] = {
    CASCADE: _cascade,
    LEARNED: without("margin"),
    MARGIN: _margin,
    MARGIN_TWO: _margin_two,
    ENSEMBLE: _ensemble,
    FRONT: _front,
    RANDOM: _random,
    "distillation": _distilled,
    "distillation, logistic": _distilled_alone("logistic"),
    "distillation, encoder": _distilled_alone("encoder"),
    "logistic alone": _alone("logistic"),
    "encoder alone": _alone("encoder"),
    LLM_ALONE: _llm,
}
"""Students of the baselines have the cascade's store, label words and updates, but are not balanced.

Margin sampling is that of Ramírez et al. (Findings of ACL 2024, "Cache & Distil"): one student, the encoder, that asks
where its two likeliest labels are near each other, after so many labels to begin with; its threshold is held to the
budget, where theirs was tuned to it beforehand. The row below it is stronger than theirs: both students, pooled as the
cascade's top level pools them, its front-load and its budget control. Front-loading, random and distillation have both
students too; the online ensemble averages them and asks at random, ever less. A level alone is taught by the first
calls, and answers every query itself. The cascade whose deferral is learned is no baseline but what it is with one part
more: its levels, with deferral that begins as their margin.
"""


ABLATED: Mapping[str, Callable[[Job], Replayed]] = {
    **{f"without {name}": without(name) for name in FIXES if name not in ("single_softmax", "drift")},
    "without cost_to_go, single_softmax": without("cost_to_go", "single_softmax"),
    "with 2 % audits": lambda job: cascade(job.stream, replace(job.spec, audit_share=0.02)),
}
"""Softmax plays no part in the advantage, and drift none in a stream without a shift. Without margin, prior or
cost_to_go deferral is learned."""
