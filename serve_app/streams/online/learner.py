"""The learner of a stream: owns the levels, the deferral functions, the budget and the drift detector.

Online cascade learning, Nie et al. 2024 (arXiv 2402.04513), learned from the LLM's labels alone, with the changes that
`settings.FIXES` names. Plain Python: publishing policies and storing state are left to the caller.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import DataError
from serve_app.streams.online.base import Arrays, Episode, LabeledEvent, StreamSpec, under
from serve_app.streams.online.budget import HeldPrice, LlmBudget
from serve_app.streams.online.deferral import Deferral
from serve_app.streams.online.drift import DriftDetector, surprise
from serve_app.streams.online.policy import STUDENTS, CascadePolicy, PolicyParameters, pooled
from serve_app.streams.online.replay import evenness, trust_in_even_labels
from serve_app.streams.online.settings import defers_by_margin, has_fix, settings_of

WHY = ("confident", "deferred", "explored", "audit", "warm-up")
_MEMORY = 0.98
"""Weight of what is known in a moving average: about the last 50 values."""


class Tally:
    """Counts of walks by level and by reason; agreement with the LLM before its label was learned."""

    def __init__(self, levels: int) -> None:
        self.queries = 0
        self.unparsed = 0
        self._by_level = [0] * (levels + 1)
        self._computed = [0] * levels
        self._why = dict.fromkeys(WHY, 0)
        self._audits = [0, 0]
        self._agreement: float | None = None
        self._level_agreement: list[float | None] = [None] * levels

    def observe(self, episode: Episode) -> None:
        """Count a walk."""
        self.queries += 1
        self._by_level[-1 if episode.level is None else episode.level] += 1
        self._why[episode.why] = self._why.get(episode.why, 0) + 1
        for j in range(len(episode.probabilities)):
            self._computed[j] += 1

    def checked(self, episode: Episode, agreed: bool | None, by_level: NDArray[np.bool_]) -> None:
        """An LLM label came. `agreed`: of the level that would have answered, None if none would."""
        if episode.why == "audit" and agreed is not None:
            self._audits[0] += 1
            self._audits[1] += agreed
            self._agreement = _moved(self._agreement, float(agreed))
        self._level_agreement = [_moved(a, float(b)) for a, b in zip(self._level_agreement, by_level, strict=True)]

    def figures(self, kinds: tuple[str, ...]) -> dict[str, object]:
        """JSON-ready."""
        seen = max(1, self.queries)
        return {
            "queries": self.queries,
            "llm_calls": self._by_level[-1],
            "llm_share": self._by_level[-1] / seen,
            "share": {kind: n / seen for kind, n in zip(kinds, self._by_level, strict=False)},
            "computed": dict(zip(kinds, self._computed, strict=True)),
            "why": dict(self._why),
            "unparsed": self.unparsed,
            "audits": self._audits[0],
            "agreement": self._agreement,
            "agreement_overall": self._audits[1] / self._audits[0] if self._audits[0] else None,
            "level_agreement": dict(zip(kinds, self._level_agreement, strict=True)),
        }

    def state(self) -> dict[str, Any]:
        """JSON-ready; `restore` is the inverse."""
        return {k.lstrip("_"): v if not isinstance(v, dict | list) else v.copy() for k, v in vars(self).items()}

    def restore(self, values: dict[str, Any]) -> None:
        """The inverse of `state`. Raises KeyError for a damaged one."""
        for name in vars(self):
            value = values[name.lstrip("_")]
            setattr(self, name, value.copy() if isinstance(value, dict | list) else value)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else _MEMORY * average + (1 - _MEMORY) * value


FORMAT = 2
"""Of the state; another is refused."""
_MOST_CROSS_ENTROPY = 5.0
"""Above any price that matters where the loss is a cross entropy; errors cost at most 1."""
_PRICE_STEP = 0.01
"""A smaller change of the price is not worth a new policy."""


class OnlineCascade:
    """A Learner. Raises ConfigError if the spec is invalid."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.settings = settings_of(spec)
        self._students = [STUDENTS[kind](spec) for kind in spec.levels]
        self._deferral = Deferral(spec)
        share, most = spec.llm_share, 1.0 if has_fix(spec, "cost_to_go") else _MOST_CROSS_ENTROPY
        step = self.settings.price_step * most
        self._budget = None if share is None else LlmBudget(share, spec.horizon, step, 0.3 * most, most)
        self._drift = DriftDetector(self.settings.drift_slack, self.settings.drift_alarm)
        self._tally = Tally(len(spec.levels))
        self._labels = 0
        self._answers = np.zeros(len(spec.labels), dtype=np.int64)
        self._restart_until = 0
        self._version = 0
        self._policy: CascadePolicy | None = None
        self._published_price = -1.0

    @classmethod
    def restored(cls, spec: StreamSpec, arrays: Arrays, values: dict[str, Any]) -> "OnlineCascade":
        """The learner of this state; it resumes exactly. Raises DataError for a state of another kind."""
        if values.get("format") != FORMAT or values.get("labels_of") != list(spec.labels):
            raise DataError(
                f"stream {spec.name!r}: the saved state is of format {values.get('format')!r} and labels "
                f"{values.get('labels_of')!r}, not {FORMAT} and {list(spec.labels)}; start the stream anew"
            )
        made = cls(spec)
        try:
            made._restore(arrays, values)
        except (KeyError, ValueError, TypeError) as e:
            raise DataError(f"stream {spec.name!r}: the saved state is damaged ({e}); take an older one") from e
        return made

    @property
    def price(self) -> float:
        """What an LLM call costs now, in units of the loss: mu times the LLM's cost; the most once no call is left."""
        if self._budget is None:
            return self.settings.price(self.spec.mu or 0.0)
        return self._budget.most if self._budget.spent else self._budget.price

    @property
    def mu(self) -> float:
        """The paper's mu, at the current price."""
        return self.price / self.settings.llm_cost

    @property
    def beta(self) -> tuple[float, ...]:
        """Probability by level that a confident level is skipped: decay ** updates, not below the floor.

        Exploration is for learning to defer, so that there is none beyond the floor where levels defer by margin.
        """
        floor = self.spec.explore_floor if self._may_explore else 0.0
        if defers_by_margin(self.spec):
            return (floor,) * len(self._students)
        levels = zip(self.settings.levels, self._students, strict=True)
        return tuple(max(floor, level.decay**s.updates) for level, s in levels)

    @property
    def _may_explore(self) -> bool:
        """Whether queries go to the LLM for what is learned of it, not for their own sake."""
        return has_fix(self.spec, "floor") and not (self._budget is not None and self._budget.spent)

    @property
    def warm_up_calls(self) -> int:
        """Queries that all go to the LLM next, whatever the levels predict; 0: none."""
        if self._drift.looking or self._labels < self._restart_until:
            return max(self._drift.needed, self._restart_until - self._labels)
        if self._budget is not None and has_fix(self.spec, "front_load"):
            first = self.settings.front_load * self._budget.share * self._budget.horizon
            return 0 if self._budget.spent else max(0, math.ceil(first - self._labels - 1e-9))
        levels = zip(self._students, self.settings.levels, strict=True)
        return max(0, *((self.settings.warm_up_updates - s.updates) * level.cache_size for s, level in levels))

    @property
    def warming_up(self) -> bool:
        """Whether the LLM answers all."""
        return self.warm_up_calls > 0

    def prepare(self, texts: Sequence[str]) -> None:
        """See Learner."""
        for s in self._students:
            s.predictor.prepare(texts)

    def observe(self, episode: Episode) -> None:
        """See Learner."""
        self._tally.observe(episode)
        if episode.label is not None:
            self._answers[episode.label] += 1
        if self._budget is not None:
            self._budget.observe(episode.level is None, steer=episode.why != "warm-up")
            if abs(self.price - self._published_price) > _PRICE_STEP:
                self._policy = None

    def learn(self, labelled: LabeledEvent) -> None:
        """See Learner. Raises DataError for a label that is none of the stream's."""
        if (label := labelled.label) is None:
            self._tally.unparsed += 1
            if labelled.episode.why == "warm-up":  # it carries no information, and a look must end
                if self._drift.looked(0.0):
                    self._begin_again()
                self._policy = None
            return
        if not 0 <= label < len(self.spec.labels):
            raise DataError(f"stream {self.spec.name!r}: label {label} of a query; there are {len(self.spec.labels)}")
        rows = [s.predictor.features(labelled.text) for s in self._students]
        probabilities = self._predict(rows)
        self._labels += 1
        drifted = self._check(probabilities, label, labelled.episode)
        if min(s.updates for s in self._students) >= self.settings.deferral_after:
            self._deferral.learn(probabilities, label, self._prices)
        self._answers[label] += 1
        self._set_evening()
        for s, row in zip(self._students, rows, strict=True):
            s.learn(row, label, self._labels)
        if drifted:
            self._begin_again()
        self._policy = None

    def policy(self) -> CascadePolicy:
        """See Learner."""
        if self._policy is None:
            self._version += 1
            self._published_price = self.price
            audit_share = self.spec.audit_share if self._may_explore else 0.0
            thresholds = self._deferral.thresholds(self._prices)
            act = PolicyParameters(thresholds, self.beta, self.warm_up_calls, audit_share, self._terms)
            levels = [s.predictor for s in self._students]
            self._policy = CascadePolicy(self.spec, self._version, levels, list(self._deferral.networks), act)
        return self._policy

    def state(self) -> tuple[Arrays, dict[str, object]]:
        """See Learner. Draws depend on the seed and counts alone, so there is no random state to keep."""
        arrays = {f"deferral.{k}": v for k, v in self._deferral.state().items()}
        for kind, s in zip(self.spec.levels, self._students, strict=True):
            arrays |= {f"{kind}.{k}": v for k, v in s.state().items()}
        values: dict[str, object] = {
            "format": FORMAT,
            "labels_of": list(self.spec.labels),
            "labels": self._labels,
            "answers": self._answers.tolist(),
            "restart_until": self._restart_until,
            "version": self._version,
            "told_price": self._published_price,
            "current": self._policy is not None,
            "tally": self._tally.state(),
            "drift": self._drift.state(),
            "budget": None if self._budget is None else [self._budget.price, self._budget.queries, self._budget.calls],
            "budget_of": self._budget_of,
        }
        return {k: np.array(v) for k, v in arrays.items()}, values

    def figures(self) -> dict[str, object]:
        """See Learner. Shares are of all queries seen; `agreement` is of the audits' own labels with the LLM's."""
        return self._tally.figures(self.spec.levels) | {
            "labels_learned": self._labels,
            "evenness": evenness(self._answers),
            "updates": dict(zip(self.spec.levels, (s.updates for s in self._students), strict=True)),
            "beta": dict(zip(self.spec.levels, self.beta, strict=True)),
            "mu": self.mu,
            "price": self.price,
            "warming_up": self.warming_up,
            "drift_alarms": self._drift.changes,
            "drift_looks": self._drift.looks,
            "drift_level": self._drift.level,
            "version": self._version,
        }

    @property
    def _budget_of(self) -> list[float] | None:
        """Identifies a budget: its share and horizon."""
        return None if self._budget is None else [self._budget.share, self._budget.horizon]

    @property
    def _prices(self) -> NDArray[np.float64]:
        """c_j * mu by level."""
        return self.mu * np.array([self.settings.cost_after(j) for j in range(len(self.spec.levels))])

    @property
    def _terms(self) -> HeldPrice | None:
        budget = self._budget
        if budget is None or not has_fix(self.spec, "cost_to_go"):
            return None
        costs = [self.settings.cost_after(j) / self.settings.llm_cost for j in range(len(self.spec.levels))]
        rate = 0.0 if budget.spent else budget.steady_rate
        return HeldPrice(self.price, rate, budget.step, budget.most, tuple(costs))

    def _predict(self, rows: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        """[levels, labels], as the policy takes them."""
        found: list[NDArray[np.float64]] = []
        weight = self.settings.pooling if has_fix(self.spec, "pooled") else 0.0
        for s, row in zip(self._students, rows, strict=True):
            found.append(pooled(s.predictor.of(row), found[-1] if found else None, weight))
        return np.stack(found)

    def _check(self, probabilities: NDArray[np.float64], label: int, episode: Episode) -> bool:
        """Count agreement before anything is learned; whether the labels have drifted."""
        predicted = probabilities.argmax(axis=1)
        thresholds = self._deferral.thresholds(self._prices)
        urges = self._deferral.urges(probabilities)
        answering = next((j for j, t in enumerate(thresholds) if urges[j] <= t), None)
        self._tally.checked(
            episode, None if answering is None else bool(predicted[answering] == label), predicted == label
        )
        if not has_fix(self.spec, "drift"):
            return False
        if self._drift.looking:
            return episode.why == "warm-up" and self._drift.looked(surprise(probabilities[-1], label))
        if not self.warming_up:
            needed = self._affordable(self.settings.drift_look)
            self._drift.observe(surprise(probabilities[-1], label), self._labels, needed)
        return False

    def _begin_again(self) -> None:
        """Labels from before the change are dropped, and the LLM answers for a while."""
        self._answers[:] = 0
        for s in self._students:
            s.begin_again(self._drift.since)
        self._deferral.forget()
        self._restart_until = self._labels + self._affordable(self.settings.drift_restart)

    def _set_evening(self) -> None:
        for s in self._students:
            s.evening = 1.0 if self.spec.objective == "balanced" else trust_in_even_labels(self._answers)

    def _affordable(self, calls: int) -> int:
        """So many LLM calls, or half of those that the budget has left."""
        if self._budget is None:
            return calls
        left = self._budget.rate * max(self._budget.horizon - self._budget.queries, self._budget.horizon // 10)
        return min(calls, int(left / 2))

    def _restore(self, arrays: Arrays, values: dict[str, Any]) -> None:
        for kind, s in zip(self.spec.levels, self._students, strict=True):
            s.restore(under(arrays, kind))
        self._deferral.restore(under(arrays, "deferral"))
        self._tally.restore(values["tally"])
        self._labels, self._restart_until = int(values["labels"]), int(values["restart_until"])
        self._answers[:] = values.get("answers", 0)  # an earlier version did not count them
        self._set_evening()
        self._drift.restore(values["drift"])
        if self._budget is not None and values["budget"] is not None:  # else it had a price: the budget begins now
            self._budget.price, queries, calls = values["budget"]
            if values.get("budget_of", self._budget_of) == self._budget_of:
                self._budget.queries, self._budget.calls = queries, calls
            # another share begins now as well: calls made under the old one are neither owed nor paid back
        self._published_price = float(values["told_price"])
        self._version = int(values["version"])
        if values["current"]:
            self._version -= 1
            price = self._published_price
            self.policy()
            self._published_price = price
