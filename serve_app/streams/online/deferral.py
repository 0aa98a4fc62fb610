"""The deferral functions f_j: from a level's class probabilities alone to the urge to defer to the next model.

By default f_j is 1 - margin / 2 and nothing of it is learned: at equal calls learned functions made no difference
beyond two standard errors on even or skewed labels, and took half of a learner's time
(benchmarks/results/skewed_streams.md).

Learned, after Nie et al. 2024: an MLP of 128 ReLU units and one sigmoid output for each level, and no gradient into the
levels. Two objectives: the paper's (calibration plus the cost J of the whole cascade), and the advantage of deferring.
All levels learn from one store of episodes, with a network and an optimizer each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.streams.online.base import Arrays, StreamSpec
from serve_app.streams.online.budget import thresholds
from serve_app.streams.online.settings import defers_by_margin, has_fix, settings_of

HIDDEN = 128
Weights = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class LabeledEpisodes:
    """LLM-labelled queries: `probabilities` [n, levels, labels] as they were before the label was learned."""

    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def wrong(self) -> NDArray[np.float64]:
        """[n, levels]: 1 where a level's label is not the LLM's."""
        missed: NDArray[np.float64] = (self.probabilities.argmax(axis=2) != self.labels[:, None]).astype(np.float64)
        return missed

    def cross_entropy(self, twice: bool) -> NDArray[np.float64]:
        """[n, levels]; `twice`: of a softmax over the probabilities, as the released code takes it."""
        logs = np.log(np.maximum(self.probabilities, 1e-12))
        if twice:
            logs = self.probabilities - np.log(np.exp(self.probabilities).sum(axis=2, keepdims=True))
        taken: NDArray[np.float64] = -np.take_along_axis(logs, self.labels[:, None, None], axis=2)[:, :, 0]
        return taken


def margin_urge(probabilities: NDArray[np.float64]) -> float:
    """f of a level's probabilities [labels] where deferral is not learned: 1 - margin / 2, in [1/2, 1]."""
    second, first = np.partition(probabilities, -2)[-2:]
    return float(1.0 - (first - second) / 2)


DeferralInputs = tuple[NDArray[np.float64], NDArray[np.float64]]
"""What f reads: `x` [n, size], and `prior` [n], to which the network's output is added before the sigmoid."""


def inputs(probabilities: NDArray[np.float64], prior: bool) -> DeferralInputs:
    """Of class probabilities [n, labels].

    With `prior` f begins as 1 - margin / 2 (margin: the two likeliest classes' difference), so that an untaught cascade
    samples by margin and what is learned is the departure from it; and the network also reads the probabilities in
    falling order, so that it need not learn a margin class by class.
    """
    if not prior:
        return probabilities, np.zeros(len(probabilities))
    falling = -np.sort(-probabilities, axis=1)
    margin = np.clip(falling[:, 0] - falling[:, 1], 1e-3, 1 - 1e-3)
    return np.concatenate([probabilities, falling], axis=1), np.log((2 - margin) / margin)


def new_network(labels: int, prior: bool, rng: np.random.Generator) -> Weights:
    """Uniform within 1 / sqrt(inputs of the layer); with `prior` an output of 0."""
    size = 2 * labels if prior else labels
    low, high = 1 / np.sqrt(size), 0.0 if prior else 1 / np.sqrt(HIDDEN)
    return {
        "w1": rng.uniform(-low, low, (size, HIDDEN)),
        "b1": rng.uniform(-low, low, HIDDEN),
        "w2": rng.uniform(-high, high, HIDDEN),
        "b2": rng.uniform(-high, high, 1),
    }


def forward(weights: Weights, read: DeferralInputs) -> NDArray[np.float64]:
    """f [n]."""
    x, prior = read
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0.0)
    urge: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-(prior + hidden @ weights["w2"] + weights["b2"])))
    return urge


def backward(weights: Weights, read: DeferralInputs, slope: NDArray[np.float64]) -> Weights:
    """Gradients of a loss whose derivative by f is `slope` [n], summed over rows."""
    x, prior = read
    before = x @ weights["w1"] + weights["b1"]
    hidden = np.maximum(before, 0.0)
    f = 1.0 / (1.0 + np.exp(-(prior + hidden @ weights["w2"] + weights["b2"])))
    out = slope * f * (1 - f)
    inner = np.outer(out, weights["w2"]) * (before > 0)
    return {"w1": x.T @ inner, "b1": inner.sum(axis=0), "w2": hidden.T @ out, "b2": np.array([out.sum()])}


def paper_slopes(
    f: NDArray[np.float64], losses: NDArray[np.float64], costs: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """d/df of mean over rows of  sum_j (f_j - target_j)^2 + J,  all [n, levels] but `costs` [levels] = c_j * mu.

    J = sum_j prod_{k<j} f_k [(1 - f_j) loss_j + f_j costs_j] (section 3 of the paper).
    """
    slopes = 2 * (f - targets)
    inner = (1 - f) * losses + f * costs
    for j in range(f.shape[1]):
        reach = np.prod(f[:, :j], axis=1)
        slopes[:, j] += reach * (costs[j] - losses[:, j])
        for i in range(j + 1, f.shape[1]):
            others = np.prod(np.delete(f[:, :i], j, axis=1), axis=1)
            slopes[:, j] += others * inner[:, i]
    scaled: NDArray[np.float64] = slopes / len(f)
    return scaled


def advantages(
    f: NDArray[np.float64], wrong: NDArray[np.float64], prices: NDArray[np.float64], calibration: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Targets [n, levels] in [0, 1]: (1 + loss of answering at j + calibration_j - cost to go above) / 2.

    The cost to go is that of the cascade as it acts now (cost-to-go imitation: Ross & Bagnell 2014, "AggreVaTe", after
    DAgger), the LLM being right by definition. `prices` [levels] = c_j * mu is left out of j's own target, as it is not
    learned but known: level j defers where f_j > (1 + prices_j) / 2, so a moved price acts at once. That is also where
    the paper's objective has its minimum, whose term in mu is linear in f_j and whose calibration is quadratic.
    """
    targets = np.empty_like(f)
    to_go = np.zeros(len(f))
    for j in reversed(range(f.shape[1])):
        targets[:, j] = (1 + wrong[:, j] + calibration[j] - to_go) / 2
        defers = f[:, j] > (1 + prices[j]) / 2
        to_go = np.where(defers, prices[j] + to_go, wrong[:, j])
    return np.clip(targets, 0.0, 1.0)


class Adam:
    """Kingma & Ba 2015, over one network."""

    def __init__(self, weights: Weights, rate: float) -> None:
        self.rate = rate
        self.steps = 0
        self.first = {k: np.zeros_like(v) for k, v in weights.items()}
        self.second = {k: np.zeros_like(v) for k, v in weights.items()}

    def step(self, weights: Weights, gradients: Weights) -> Weights:
        """The moved weights, as new arrays."""
        self.steps += 1
        moved = {}
        for k, g in gradients.items():
            self.first[k] = 0.9 * self.first[k] + 0.1 * g
            self.second[k] = 0.999 * self.second[k] + 0.001 * g**2
            mean = self.first[k] / (1 - 0.9**self.steps)
            spread = self.second[k] / (1 - 0.999**self.steps)
            moved[k] = weights[k] - self.rate * mean / (np.sqrt(spread) + 1e-8)
        return moved


_MOMENTS = ("first", "second")


class Deferral:
    """All f_j of a stream. `prices` given to its methods are c_j * mu by level, in units of the loss."""

    def __init__(self, spec: StreamSpec) -> None:
        self._settings = settings_of(spec)
        self._kinds = spec.levels
        self._seed = spec.seed
        self._replays = has_fix(spec, "replay")
        self._to_go = has_fix(spec, "cost_to_go")
        self._by_margin = defers_by_margin(spec)
        self._prior = has_fix(spec, "prior")
        # of the top level no calibration is needed: the price of the LLM does its work
        self._caution = np.array([self._settings.caution] * (len(spec.levels) - 1) + [0.0])
        self._twice = not has_fix(spec, "single_softmax")
        rng = np.random.default_rng([spec.seed, 2])
        learned = () if self._by_margin else spec.levels
        self.networks: list[Weights] = [new_network(len(spec.labels), self._prior, rng) for _ in learned]
        rates = [
            self._settings.deferral_rate if self._to_go else level.learning_rate for level in self._settings.levels
        ]
        self._adams = [Adam(w, rate) for w, rate in zip(self.networks, rates, strict=not self._by_margin)]
        self._episodes: list[NDArray[np.float64]] = []
        self._labels: list[int] = []
        self._draws = 0

    def urges(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """f [levels] of one query's probabilities [levels, labels]."""
        if self._by_margin:
            return np.array([margin_urge(p) for p in probabilities])
        row: NDArray[np.float64] = self._urges(probabilities[None])[0]
        return row

    def thresholds(self, prices: NDArray[np.float64]) -> tuple[float, ...]:
        """Level j defers where f_j is above its threshold."""
        if not self._to_go:
            return (0.5,) * len(self._kinds)
        return thresholds(prices.tolist())

    def learn(self, probabilities: NDArray[np.float64], label: int, prices: NDArray[np.float64]) -> None:
        """Learn from one query's probabilities, as predicted before its LLM label was learned."""
        if self._by_margin:
            return
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
        for kind, network, adam in zip(self._kinds, self.networks, self._adams, strict=not self._by_margin):
            kept |= {f"{kind}.{k}": v for k, v in network.items()}
            for name in _MOMENTS:
                kept |= {f"{kind}.{name}.{k}": v for k, v in getattr(adam, name).items()}
        return kept

    def restore(self, arrays: Arrays) -> None:
        """The inverse of `state`."""
        if self._by_margin:
            return
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
        episodes = LabeledEpisodes(
            np.array([self._episodes[i] for i in rows]), np.array([self._labels[i] for i in rows])
        )
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

    def _slopes(self, episodes: LabeledEpisodes, prices: NDArray[np.float64]) -> NDArray[np.float64]:
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
