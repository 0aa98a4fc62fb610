"""How the deferral functions are learned: one store of episodes, one network and one optimiser for each level."""

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.online.base import Arrays, StreamSpec
from serve_app.cascade.online.deferral import (
    Adam,
    Episodes,
    Weights,
    advantages,
    backward,
    forward,
    inputs,
    new_network,
    paper_slopes,
)
from serve_app.cascade.online.holding import thresholds
from serve_app.cascade.online.settings import mended, settings_of

_MOMENTS = ("first", "second")


class Deferral:
    """All f_j of a stream. `prices` given to its methods are c_j * mu by level, in units of the loss."""

    def __init__(self, spec: StreamSpec) -> None:
        self._settings = settings_of(spec)
        self._kinds = spec.levels
        self._seed = spec.seed
        self._replays = mended(spec, "replay")
        self._to_go = mended(spec, "cost_to_go")
        self._prior = mended(spec, "prior")
        # of the top level no calibration is needed: the price of the LLM does its work
        self._caution = np.array([self._settings.caution] * (len(spec.levels) - 1) + [0.0])
        self._twice = not mended(spec, "single_softmax")
        rng = np.random.default_rng([spec.seed, 2])
        self.networks: list[Weights] = [new_network(len(spec.labels), self._prior, rng) for _ in spec.levels]
        rates = [
            self._settings.deferral_rate if self._to_go else level.learning_rate for level in self._settings.levels
        ]
        self._adams = [Adam(w, rate) for w, rate in zip(self.networks, rates, strict=True)]
        self._episodes: list[NDArray[np.float64]] = []
        self._labels: list[int] = []
        self._draws = 0

    def urges(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """f [levels] of one query's probabilities [levels, labels]."""
        row: NDArray[np.float64] = self._urges(probabilities[None])[0]
        return row

    def thresholds(self, prices: NDArray[np.float64]) -> tuple[float, ...]:
        """Level j asks on where f_j is above its threshold."""
        if not self._to_go:
            return (0.5,) * len(self._kinds)
        return thresholds(prices.tolist())

    def learn(self, probabilities: NDArray[np.float64], label: int, prices: NDArray[np.float64]) -> None:
        """Learn from one query's probabilities, as predicted before its LLM label was learned."""
        self._episodes.append(probabilities)
        self._labels.append(label)
        keep = self._settings.deferral_replay if self._replays else 1
        del self._episodes[:-keep], self._labels[:-keep]
        for _ in range(self._settings.deferral_steps if self._replays else 1):
            self._step(prices)

    def forget(self) -> None:
        """Drop the episodes: their labels are no longer what the LLM says."""
        self._episodes.clear()
        self._labels.clear()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """As arrays; `restore` is the inverse."""
        kept: dict[str, NDArray[np.generic]] = {
            "episodes": np.array(self._episodes),
            "labels": np.array(self._labels, dtype=np.int64),
            "counts": np.array([self._draws, *(adam.steps for adam in self._adams)], dtype=np.int64),
        }
        for kind, network, adam in zip(self._kinds, self.networks, self._adams, strict=True):
            kept |= {f"{kind}.{k}": v for k, v in network.items()}
            for name in _MOMENTS:
                kept |= {f"{kind}.{name}.{k}": v for k, v in getattr(adam, name).items()}
        return kept

    def restore(self, arrays: Arrays) -> None:
        """Take up what `state` gave."""
        self._episodes = [np.array(e, dtype=np.float64) for e in arrays["episodes"]]
        self._labels = [int(x) for x in arrays["labels"]]
        self._draws, *steps = (int(n) for n in arrays["counts"])
        for j, kind in enumerate(self._kinds):
            names = list(self.networks[j])
            self.networks[j] = {k: np.array(arrays[f"{kind}.{k}"], dtype=np.float64) for k in names}
            self._adams[j].steps = steps[j]
            for name in _MOMENTS:
                moments = {k: np.array(arrays[f"{kind}.{name}.{k}"], dtype=np.float64) for k in names}
                setattr(self._adams[j], name, moments)

    def _step(self, prices: NDArray[np.float64]) -> None:
        rows = self._batch()
        episodes = Episodes(np.array([self._episodes[i] for i in rows]), np.array([self._labels[i] for i in rows]))
        slopes = self._slopes(episodes, prices)
        for j, adam in enumerate(self._adams):
            weights = self.networks[j]
            gradients = backward(weights, inputs(episodes.probabilities[:, j], self._prior), slopes[:, j])
            l2 = self._settings.deferral_l2 if self._to_go else self._settings.levels[j].l2
            shrunk = {k: g + 2 * l2 * weights[k] for k, g in gradients.items()}
            self.networks[j] = adam.step(weights, shrunk)

    def _batch(self) -> list[int]:
        """The newest episode, and with replay a draw of the others."""
        newest = len(self._episodes) - 1
        count = min(self._settings.deferral_batch - 1, newest) if self._replays else 0
        if not count:
            return [newest]
        self._draws += 1
        rng = np.random.default_rng([self._seed, 3, self._draws])
        return [newest, *(int(i) for i in rng.choice(newest, size=count, replace=False))]

    def _slopes(self, episodes: Episodes, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        f = self._urges(episodes.probabilities)
        if self._to_go:
            slopes: NDArray[np.float64] = 2 * (f - advantages(f, episodes.wrong, prices, self._caution)) / len(f)
            return slopes
        calibration = np.array([level.calibration for level in self._settings.levels])
        targets = np.minimum(1.0, episodes.wrong + calibration)
        return paper_slopes(f, episodes.cross_entropy(self._twice), prices, targets)

    def _urges(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = [forward(w, inputs(probabilities[:, j], self._prior)) for j, w in enumerate(self.networks)]
        return np.stack(columns, axis=1)
