"""The deferral functions f_j: from a level's class probabilities alone to the urge to ask the next model.

Nie et al. 2024: an MLP of 128 ReLU units and one sigmoid output for each level, and no gradient into the levels. Two
objectives: the paper's (calibration plus the cost J of the whole cascade), and the advantage of asking on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HIDDEN = 128
Weights = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Episodes:
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


@dataclass(frozen=True, slots=True)
class Inputs:
    """What f reads: `x` [n, size], and `prior` [n], what the network's output is added to before the sigmoid."""

    x: NDArray[np.float64]
    prior: NDArray[np.float64]


def inputs(probabilities: NDArray[np.float64], prior: bool) -> Inputs:
    """Of class probabilities [n, labels].

    With `prior` f begins as 1 - margin / 2 (margin: the two likeliest classes' difference), so that an untaught cascade
    samples by margin and what is learned is the departure from it; and the network reads the probabilities in falling
    order beside them, so that it need not learn a margin class by class.
    """
    if not prior:
        return Inputs(probabilities, np.zeros(len(probabilities)))
    falling = -np.sort(-probabilities, axis=1)
    margin = np.clip(falling[:, 0] - falling[:, 1], 1e-3, 1 - 1e-3)
    return Inputs(np.concatenate([probabilities, falling], axis=1), np.log((2 - margin) / margin))


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


def forward(weights: Weights, read: Inputs) -> NDArray[np.float64]:
    """f [n]."""
    hidden = np.maximum(read.x @ weights["w1"] + weights["b1"], 0.0)
    urge: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-(read.prior + hidden @ weights["w2"] + weights["b2"])))
    return urge


def backward(weights: Weights, read: Inputs, slope: NDArray[np.float64]) -> Weights:
    """Gradients of a loss whose derivative by f is `slope` [n], summed over rows."""
    before = read.x @ weights["w1"] + weights["b1"]
    hidden = np.maximum(before, 0.0)
    f = 1.0 / (1.0 + np.exp(-(read.prior + hidden @ weights["w2"] + weights["b2"])))
    out = slope * f * (1 - f)
    inner = np.outer(out, weights["w2"]) * (before > 0)
    return {"w1": read.x.T @ inner, "b1": inner.sum(axis=0), "w2": hidden.T @ out, "b2": np.array([out.sum()])}


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
    learned but known: level j asks on where f_j > (1 + prices_j) / 2, so a moved price acts at once. That is also where
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
