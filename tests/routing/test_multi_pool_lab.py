"""The estimator over the lab's three models: real answers, real tokens, real quality."""

import numpy as np
import pytest

from serve_app.config import load
from serve_app.data.collection.lab import Draw, lab_answers
from serve_app.data.dataset import Dataset
from serve_app.lab import models_dir
from serve_app.routing.frontier import multi_pool_curve, oracle_frontier, upper_hull
from serve_app.routing.kinds.estimator import EstimatorRouter
from serve_app.types import Price

pytestmark = pytest.mark.integration
TINY = Price(0.03, 0.03)


@pytest.fixture(scope="module")
def halves() -> tuple[Dataset, Dataset]:
    draw = Draw(samples=2)
    return lab_answers(models_dir(), 1_500, "learn", draw), lab_answers(models_dir(), 800, "measure", draw)


def test_three_models_chosen_by_estimate_beat_any_mixture_of_them(halves: tuple[Dataset, Dataset]) -> None:
    learn, measure = halves
    pools = load("lab", env={}).pools
    prices = {
        name: Price(pools[name].price.input_usd_per_million, pools[name].price.output_usd_per_million)
        for name in ("small", "large")
    }
    router = EstimatorRouter().fit(learn)
    estimate = router.estimate(measure.queries)
    curve, oracle = multi_pool_curve(measure, estimate, {**prices, "tiny": TINY}), oracle_frontier(measure)
    x, y = upper_hull(*(np.array([point[i] for point in curve.single.values()]) for i in (1, 0)))
    half = (x[0] + x[-1]) / 2
    mixed, found, best = np.interp(half, x, y), curve.quality_at(half), oracle.quality_at(half)
    assert mixed + 0.08 < found <= best + 1e-9
    assert (curve.share.max(0) > 0.2).all(), "every pool has queries for which it is the choice"


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
