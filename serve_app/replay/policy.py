"""Where logged decisions would have gone under another threshold or another router.

A decision follows its score: `large` if it reached the threshold. Where the pool that answered is the other one, as a
pool lacked a capability, failed or was full, or placement forbade it, what forced it is taken to be the same under any
threshold: the decision stays with the pool that answered. So the threshold that was in force gives what was served.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.replay.log import DecisionColumns, LogSieve
from serve_app.routing.base import Router
from serve_app.types import Message, Query

STRATEGY: Final = "route"
"""The strategy that a router and its threshold decide alone: the models `jethro` and `jethro-route`."""
_BATCH: Final = 256
_ROUNDING: Final = 1e-5
"""Of the threshold in a policy version, relative."""

Bools = NDArray[np.bool_]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RouterPolicy:
    """A router version at a threshold. `weak` and `strong` are the names of its pools."""

    router: str
    version: str
    threshold: float
    weak: str = "small"
    strong: str = "large"


@dataclass(frozen=True, slots=True)
class Moves:
    """What a policy does with the decisions that it can be replayed on: `log`, with the scores of the policy's router.

    `served` and `predicted`: whether the strong pool answered, and would. `forced`: stays where it is, whatever the
    score.
    """

    policy: RouterPolicy
    log: DecisionColumns
    scores: Floats
    served: Bools
    predicted: Bools
    forced: Bools
    left_out: dict[str, int]
    """Decisions that could not be replayed, by reason."""

    @property
    def moved(self) -> Bools:
        """Whether another pool would answer."""
        return np.asarray(self.served != self.predicted)


def move(
    log: DecisionColumns,
    policy: RouterPolicy,
    router: Router | None = None,
    *,
    local_only: Sequence[str] = (),
    progress: Progress = lambda done, of: None,
) -> Moves:
    """Replay a policy. `router` scores prompts where the log holds scores of another version; it may be None.

    `local_only`: privacy classes whose requests no score may move to the strong pool.
    """
    sieve = LogSieve(log)
    log = sieve.keep(log.status != "route_only", "requests of the decision alone, without an answer")
    log = sieve.keep(log.strategy == STRATEGY, "of other strategies than routing, which this does not change")
    log = sieve.keep(log.status == "completed", "failed or cancelled")
    log = sieve.keep((log.pool == policy.weak) | (log.pool == policy.strong), "answered by another pool")
    scored, known = _scores(log, policy)
    if router is None:
        why = f"scored by another version than {policy.version}, whose prompts would have to be scored again"
        log = sieve.keep(known, why)
        scores = scored[known]
    else:
        usable = known | (log.prompt != None)  # noqa: E711 - elementwise
        log = sieve.keep(usable, "without a kept prompt, which another router has to score (store.keep_prompts)")
        scores, known = scored[usable], known[usable]
        scores[~known] = _rescored(router, log.prompt[~known], progress)
    served = log.pool == policy.strong
    base = _base_threshold(log)
    from_score = np.isnan(log.score) | (log.score >= base)  # without a score the strong pool answers, to be safe
    forced = from_score != served
    after = np.isnan(scores) | (scores >= policy.threshold)
    forbidden = np.isin(log.privacy.astype(str), local_only) & ~served & after
    forced |= forbidden
    return Moves(policy, log, scores, served, np.where(forced, served, after), forced, sieve.left_out)


def _scores(log: DecisionColumns, policy: RouterPolicy) -> tuple[Floats, Bools]:
    """The logged scores, and which of them are of the policy's version; a score that failed is nan, and known."""
    versions = np.array([str(v).rpartition("@")[0] for v in log.policy_version], dtype=object)
    return log.score.copy(), versions == policy.version


def _base_threshold(log: DecisionColumns) -> Floats:
    """The threshold in force without regard to load, which may have raised that of a decision.

    The policy version names it, rounded.
    """
    found = log.threshold.copy()
    texts = [str(v).rpartition("@")[2] for v in log.policy_version]
    for text in set(texts):
        try:
            base = float(text)
        except ValueError:
            continue
        at = np.array([t == text for t in texts])
        raised = at & ~np.isclose(found, base, rtol=_ROUNDING, atol=_ROUNDING)
        found[raised] = base
    return found


def _rescored(router: Router, prompts: NDArray[np.object_], progress: Progress) -> Floats:
    """The scores of prompts, each different one scored once. The log keeps a conversation as one text."""
    if not len(prompts):
        return np.empty(0)
    distinct, at = np.unique(prompts.astype(str), return_inverse=True)
    found = np.empty(len(distinct))
    for start in range(0, len(distinct), _BATCH):
        some = [Query((Message("user", str(text)),)) for text in distinct[start : start + _BATCH]]
        found[start : start + len(some)] = router.score(some)
        progress(start + len(some), len(distinct))
    return found[at]
