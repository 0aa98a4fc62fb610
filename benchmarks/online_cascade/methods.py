"""The methods that are compared, each by name: how one replays a stream under a budget of LLM calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.online_cascade.stream import Recorded
from benchmarks.online_cascade.walks import (
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
from serve_app.cascade.online.base import StreamSpec
from serve_app.cascade.online.settings import MENDS, plain, settings_of

CASCADE, PLAIN = "online cascade", "released algorithm"
MARGIN, ENSEMBLE, FRONT, RANDOM = "margin sampling", "online ensemble", "front-loading", "random"
LLM_ALONE = "LLM alone"
PLAIN_PARAMS = {"encoder.decay": 0.9, "encoder.calibration": 0.45, "logistic.decay": 0.8, "logistic.calibration": 0.15}
"""The authors' values for ISEAR (LR + BERT-base)."""
PLAIN_MU = (1.6e-3, 2e-3, 2.2e-3, 2.5e-3, 3e-3, 4e-3, 6e-3, 1e-2)
"""The released algorithm has no budget: its price is swept, and of each seed the replay whose calls come nearest to a
budget stands for it, which nobody could have chosen beforehand."""


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
    return lambda job: cascade(job.stream, replace(job.spec, mu=mu, llm_share=None, mends=plain(), params=PLAIN_PARAMS))


def _llm(job: Job) -> Replayed:
    return Replayed(job.stream.expert, np.full(len(job.stream), LLM), len(job.stream))


def _margin(job: Job) -> Replayed:
    settings = settings_of(job.spec)
    asks = ByMargin(job.calls, len(job.stream), int(settings.front_load * job.calls), settings.price_step)
    return online(job.stream, Taught(job.spec), asks)


def _ensemble(job: Job) -> Replayed:
    asks = at_random(job.calls, len(job.stream), job.spec.seed, falling=True)
    return online(job.stream, Taught(job.spec, averaged=True), asks)


def _front(job: Job) -> Replayed:
    return online(job.stream, Taught(job.spec), first(job.calls))


def _random(job: Job) -> Replayed:
    return online(job.stream, Taught(job.spec), at_random(job.calls, len(job.stream), job.spec.seed))


def _distilled(job: Job) -> Replayed:
    return distilled(job.stream, Taught(job.spec), job.other, job.calls)


def _alone(kind: str) -> Callable[[Job], Replayed]:
    return lambda job: online(job.stream, Taught(replace(job.spec, levels=(kind,))), first(job.calls), own=True)


def _distilled_alone(kind: str) -> Callable[[Job], Replayed]:
    return lambda job: distilled(job.stream, Taught(replace(job.spec, levels=(kind,))), job.other, job.calls)


METHODS: Mapping[str, Callable[[Job], Replayed]] = {
    CASCADE: _cascade,
    MARGIN: _margin,
    f"{MARGIN}, encoder": lambda job: _margin(replace(job, spec=replace(job.spec, levels=("encoder",)))),
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
"""The students of margin sampling, front-loading, random and distillation are the cascade's two levels, pooled as its
top level pools them, with the same store, label words and updates; margin sampling also has its front-load and its
budget control, so that what differs is the learned deferral alone (a second row has one student, the encoder). The
online ensemble averages the same two students and asks at random, ever less. A level alone is taught by the first
calls, and answers every query itself.
"""


def without(*mends: str) -> Callable[[Job], Replayed]:
    """The cascade with mends off."""
    return lambda job: cascade(job.stream, replace(job.spec, mends=dict.fromkeys(mends, False)))


ABLATED: Mapping[str, Callable[[Job], Replayed]] = {
    **{f"without {mend}": without(mend) for mend in MENDS if mend not in ("single_softmax", "drift")},
    "without cost_to_go, single_softmax": without("cost_to_go", "single_softmax"),
    "with 2 % audits": lambda job: cascade(job.stream, replace(job.spec, audit_share=0.02)),
}
"""Softmax plays no part in the advantage, and drift none in a stream without a shift."""
