"""What a Gateway acts by: the walk up the levels, with the paper's coin of exploration at each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import softmax
from serve_app.streams.online.base import Arrays, Episode, Predictor, Probabilities, StreamSpec, Student, under
from serve_app.streams.online.budget import HeldPrice
from serve_app.streams.online.deferral import Weights, forward, inputs, margin_urge
from serve_app.streams.online.encoded import EncodedPredictor, EncodedStudent
from serve_app.streams.online.logistic import HashedPredictor, HashedStudent
from serve_app.streams.online.settings import has_fix, settings_of

PREDICTORS: Mapping[str, Callable[[Arrays, int], Predictor]] = {
    "logistic": HashedPredictor.from_arrays,
    "encoder": EncodedPredictor.from_arrays,
}
"""By kind: from `Predictor.arrays()` and the number of labels."""
STUDENTS: Mapping[str, Callable[[StreamSpec], Student]] = {"logistic": HashedStudent, "encoder": EncodedStudent}
"""By kind: an untrained level of a stream."""


def pooled(own: Probabilities, below: Probabilities | None, weight: float) -> Probabilities:
    """own * below ** weight, summing to 1: a logarithmic opinion pool (Genest & Zidek, Stat. Sci. 1986)."""
    if below is None or weight == 0.0:
        return own
    return softmax(np.log(np.maximum(own, 1e-12)) + weight * np.log(np.maximum(below, 1e-12)))


@dataclass(frozen=True, slots=True)
class PolicyParameters:
    """The numbers of a policy: `thresholds` and `beta` by level, and the audit's share.

    `warm_up`: so many queries go to the LLM, whatever the levels say; not more, since the labels of the first may be
    on their way while the Learner has not seen them. `terms`: of a price that is moved meanwhile, and the thresholds
    with it; None for one that stays.
    """

    thresholds: tuple[float, ...]
    beta: tuple[float, ...]
    warm_up: int
    audit_share: float
    terms: HeldPrice | None = None


class CascadePolicy:
    """Level j answers if f_j <= threshold_j and its coin is at least beta_j (section 1.2 of the paper's algorithm).

    `networks`: the learned f_j by level; none where levels defer by margin.
    """

    def __init__(
        self,
        spec: StreamSpec,
        version: int,
        levels: Sequence[Predictor],
        networks: Sequence[Weights],
        act: PolicyParameters,
    ) -> None:
        self.version = version
        self._levels = tuple(levels)
        self._networks = tuple(networks)
        self._numbers = act
        self._warm_up = act.warm_up
        self._holding = None if act.terms is None else replace(act.terms)
        self._kinds = spec.levels
        self._prior = has_fix(spec, "prior")
        self._pooling = settings_of(spec).pooling if has_fix(spec, "pooled") else 0.0
        self._early_exit = has_fix(spec, "early_exit")

    def act(self, text: str, coins: Sequence[float] | None) -> Episode:
        """One query's walk; `coins` [1 + levels] in [0, 1), or None (see Policy). Raises ValueError for too few."""
        if coins is None:
            return self._episode(text, (1.0,) * len(self._levels))
        if len(coins) < 1 + len(self._levels):
            raise ValueError(f"{1 + len(self._levels)} coins are needed, not {len(coins)}")
        if self._warm_up > 0:
            return Episode(None, None, (), (), "warm-up", self.version)
        if coins[0] < self._numbers.audit_share:
            return Episode(None, None, (), (), "audit", self.version)
        return self._episode(text, coins[1:])

    def observe(self, episode: Episode) -> None:
        """See Policy."""
        if episode.why == "warm-up":
            self._warm_up -= 1
        if self._holding is not None:
            self._holding.observe(episode)

    def _episode(self, text: str, coins: Sequence[float]) -> Episode:
        seen: list[tuple[float, ...]] = []
        urges: list[float] = []
        answer: tuple[int, int] | None = None
        why = "deferred"
        below: NDArray[np.float64] | None = None
        thresholds = self._numbers.thresholds if self._holding is None else self._holding.thresholds
        for j in range(len(self._levels)):
            if answer is not None and self._early_exit:
                break
            probabilities, urge = self.level(j, text, below)
            below = probabilities
            seen.append(tuple(float(p) for p in probabilities))
            urges.append(urge)
            confident = urge <= thresholds[j]
            if answer is None and confident and coins[j] >= self._numbers.beta[j]:
                answer, why = (j, int(probabilities.argmax())), "confident"
            elif answer is None:
                why = "explored" if confident else "deferred"
        level, label = answer if answer is not None else (None, None)
        return Episode(level, label, tuple(seen), tuple(urges), why, self.version)

    def level(self, j: int, text: str, below: NDArray[np.float64] | None) -> tuple[NDArray[np.float64], float]:
        """Class probabilities of level j, which take in those of the level below, and f_j of them."""
        own = self._levels[j].of(self._levels[j].features(text))
        probabilities = pooled(own, below, self._pooling)
        if not self._networks:
            return probabilities, margin_urge(probabilities)
        return probabilities, float(forward(self._networks[j], inputs(probabilities[None], self._prior))[0])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """See Policy; `policy_from` is the inverse."""
        n = self._numbers
        found: dict[str, NDArray[np.generic]] = {
            "version": np.array([self.version], dtype=np.int64),
            "thresholds": np.array(n.thresholds),
            "beta": np.array(n.beta),
            "act": np.array([float(n.warm_up), n.audit_share]),
        }
        if n.terms is not None:
            found["terms"] = np.array([n.terms.price, n.terms.rate, n.terms.step, n.terms.most, *n.terms.costs])
        for kind, level in zip(self._kinds, self._levels, strict=True):
            found |= {f"{kind}.{k}": v for k, v in level.arrays().items()}
        for kind, network in zip(self._kinds, self._networks, strict=bool(self._networks)):
            found |= {f"{kind}.deferral.{k}": v for k, v in network.items()}
        return found


def policy_from(spec: StreamSpec, arrays: Arrays) -> CascadePolicy:
    """The policy whose `arrays()` these are: it acts the same."""
    warm_up, audit_share = (float(x) for x in arrays["act"])
    terms = None
    if "terms" in arrays:
        price, rate, step, most, *costs = _floats(arrays["terms"])
        terms = HeldPrice(price, rate, step, most, tuple(costs))
    act = PolicyParameters(_floats(arrays["thresholds"]), _floats(arrays["beta"]), int(warm_up), audit_share, terms)
    parts = {kind: under(arrays, kind) for kind in spec.levels}
    learned = [under(part, "deferral") for part in parts.values()]
    networks = [{k: np.asarray(v, dtype=np.float64) for k, v in network.items()} for network in learned if network]
    levels = [PREDICTORS[kind](part, len(spec.labels)) for kind, part in parts.items()]
    return CascadePolicy(spec, int(arrays["version"][0]), levels, networks, act)


def _floats(values: NDArray[np.generic]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
