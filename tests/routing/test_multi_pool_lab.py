"""The estimator over the lab's three models: real answers, real tokens, real quality."""

from dataclasses import replace

import numpy as np
import pytest

from serve_app.config import load
from serve_app.data.collection.lab import MODELS, LabPlan, record_lab
from serve_app.data.dataset import Dataset
from serve_app.lab import models_dir
from serve_app.routing.kinds.estimator import EstimatorRouter
from serve_app.routing.multi_pool import Utility
from serve_app.types import Price

pytestmark = pytest.mark.integration
TINY = Price(0.03, 0.03)


@pytest.fixture(scope="module")
def halves() -> tuple[Dataset, Dataset]:
    plan = LabPlan(1_500, "learn", models=MODELS, samples=2, temperature=1.0)
    return record_lab(models_dir(), plan), record_lab(models_dir(), replace(plan, n=800, half="measure"))


def test_three_models_chosen_by_estimate_beat_any_mixture_of_them(halves: tuple[Dataset, Dataset]) -> None:
    learn, measure = halves
    pools = load("lab", env={}).pools
    prices = {
        name: Price(pools[name].price.input_usd_per_million, pools[name].price.output_usd_per_million)
        for name in ("small", "large")
    }
    router = EstimatorRouter().fit(learn)
    estimate = router.estimate(measure.queries)
    answers = [measure.pools[pool] for pool in estimate.pools]
    quality = np.stack([a.quality.mean(1) for a in answers], axis=1)
    cost = np.stack([a.cost_usd.mean(1) for a in answers], axis=1)
    x, y = cost.mean(0), quality.mean(0)
    half = (x.min() + x.max()) / 2
    pairs = [(i, j) for i in range(3) for j in range(3) if x[i] <= half < x[j]]
    mixed = max(np.interp(half, x[[i, j]], y[[i, j]]) for i, j in pairs)
    rows, worths = np.arange(len(measure)), cost.max() * np.logspace(-4, 6, 200)
    expected = estimate.cost_usd({**prices, "tiny": TINY})
    chosen = [Utility(w).of(estimate.quality, estimate.std, expected).argmax(1) for w in worths]
    oracle = [Utility(w).of(quality, np.zeros_like(quality), cost).argmax(1) for w in worths]
    found, best = (
        max(quality[rows, c].mean() for c in choices if cost[rows, c].mean() <= half) for choices in (chosen, oracle)
    )
    assert mixed + 0.08 < found <= best + 0.01  # the oracle too has a grid of worths
    shares = np.array([np.bincount(c, minlength=3) / len(rows) for c in chosen])
    assert (shares.max(0) > 0.2).all(), "every pool has queries for which it is the choice"


def test_standard_errors_cover_on_the_lab(halves: tuple[Dataset, Dataset]) -> None:
    learn, measure = halves
    estimate = EstimatorRouter().fit(learn).estimate(measure.queries)
    inside = []
    for j, pool in enumerate(estimate.pools):
        seen = measure.pools[pool].quality.mean(1)
        for part in np.array_split(np.argsort(estimate.quality[:, j]), 10):
            error = seen[part].mean() - estimate.quality[part, j].mean()
            sampling = seen[part].std() / len(part) ** 0.5
            inside.append(abs(error) <= 1.645 * np.hypot(estimate.std[part, j].mean(), sampling))
    assert np.mean(inside) >= 0.8
