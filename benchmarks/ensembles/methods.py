"""What is measured on each half: fitted plans, routing and cascade routing, every model alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.cascades.curves import Curve, quality_at
from benchmarks.cascades.methods import FORMS, ours, prepare
from benchmarks.ensembles.settings import Loaded
from serve_app.data.dataset import Dataset
from serve_app.data.recorded import Recorded
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.goal import Goal
from serve_app.ensemble.fitting.plan import EnsembleFit
from serve_app.ensemble.fitting.search import EnsembleOptions
from serve_app.ensemble.fitting.shapes import described, replay
from serve_app.ensemble.fitting.worth import NotWorthIt, Singles
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder

Floats = NDArray[np.float64]
CURVE = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
"""Shares of strong calls at which plans are fitted for the picture."""


_VECTORS: dict[str, Floats] = {}
"""Of prompts that were read: two settings share theirs."""


@dataclass(slots=True)
class Routed:
    """A kind of routing over the splits: mean cost and quality [p, 2] of each."""

    splits: list[Floats] = field(default_factory=list)

    def add(self, curve: Curve) -> None:
        """One more split."""
        self.splits.append(curve.points())

    def at(self, cost_usd: float) -> float:
        """Mean quality at a mean cost; level beyond its lowest and highest."""
        return float(np.mean([quality_at(points, cost_usd) for points in self.splits]))

    def points(self) -> list[tuple[float, float]]:
        """Of the first split, for the picture."""
        return [(float(cost), float(quality)) for cost, quality in self.splits[0]]


def embedded(prompts: Sequence[str]) -> Floats:
    """The encoder's vectors, shape [n, d]."""
    new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in _VECTORS]
    if new:
        _VECTORS.update(zip(new, load_encoder().embed(new).astype(np.float64), strict=True))
    return np.stack([_VECTORS[prompt] for prompt in prompts])


@dataclass(frozen=True, slots=True)
class Half:
    """A plan fitted on one half, on the n queries of the other: arrays [n]. `gain`: quality less that of the best
    single model that costs no more there, [n], nan where none does. `refused`: the single model that the fit named,
    which stands for the plan.
    """

    plan: str
    quality: Floats
    cost_usd: Floats
    strong: NDArray[np.bool_]
    gain: Floats
    refused: str = ""


def halves(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of a random half to fit on, and of the other."""
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def fitted(train: Dataset, test: Dataset, strong: str, shares: Sequence[float]) -> dict[float, Half]:
    """By limit of strong calls; one that no plan keeps is left out."""
    fitting = EnsembleFit(train, EnsembleOptions(strong=strong))
    answers = Answers.of(test, form=fitting.answers.normalizer)
    singles = Singles.of(answers)
    found = {}
    for share in shares:
        try:
            plan = fitting.plan(Goal(strong_share=share)).plan
            outcome = replay(plan, answers, strong)
            route = described(tuple(each.calls for each in plan.rounds))
            half = Half(route, outcome.quality, outcome.cost_usd, outcome.strong, np.empty(0))
        except NotWorthIt as refusal:
            at, n = singles.names.index(refusal.single), len(answers)
            called = np.full(n, refusal.single == strong)
            half = Half(
                refusal.single, singles.quality[:, at], singles.cost_usd[:, at], called, np.empty(0), refusal.single
            )
        except ConfigError:
            continue
        found[share] = replace(half, gain=_gain(half, singles))
    return found


def _gain(half: Half, singles: Singles) -> Floats:
    able = singles.cost_usd.mean(0) <= half.cost_usd.mean() * (1 + 1e-9)
    if not able.any():
        return np.full(len(half.quality), np.nan)
    means = np.where(able, singles.quality.mean(0), -1.0)
    gain: Floats = half.quality - singles.quality[:, int(means.argmax())]
    return gain


def routed(loaded: Loaded, models: Sequence[str], seed: int, vectors: Floats) -> dict[str, Curve]:
    """Plain routing and cascade routing between the models, fitted on the same half and measured on the other."""
    train, _ = halves(len(loaded), seed)
    dataset = loaded.dataset(models)
    inside = np.isin(np.arange(len(loaded)), train)
    dataset = replace(dataset, splits=tuple(np.where(inside, "train", "test").tolist()))
    setting = prepare(Recorded.from_dataset(dataset), list(models), vectors, seed)
    return {name: ours(setting, FORMS[name]) for name in ("routing", "cascade routing")}
