"""One effect of the paper: with noisier estimates all lose, cascade routing leads, and its lead over routing shrinks.

As in its section 4 the estimates are the recorded truth plus normal noise, a larger one before a model has run than
after. Here each is turned into the probability of being right that it implies (Bayes, with the train part's rates), so
that what is varied is how much the estimates know, not how well they are calibrated. Costs are known.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cascades.curves import area
from benchmarks.cascades.methods import FORMS, Setting, ours
from serve_app.arrays import sigmoid
from serve_app.cascade.routing.estimates import members
from serve_app.cascade.routing.walk import Tables, fit_moves
from serve_app.learning.logistic import log_odds

Floats = NDArray[np.float64]
LEVELS = {"low": (0.6, 0.3), "medium": (1.6, 0.8), "high": (2.4, 1.2)}
"""Standard deviations of the noise before and after a model has run, as the paper names them."""


def sweep(setting: Setting, levels: dict[str, tuple[float, float]], seed: int) -> dict[str, dict[str, Any]]:
    """Area of each form on test at each level of noise."""
    low, high = setting.range_usd
    found: dict[str, dict[str, Any]] = {}
    for name, (before, after) in levels.items():
        rates = log_odds(setting.train.ok.mean(0), 0.5 / len(setting.train))
        rng = np.random.default_rng([seed, int(1000 * before)])
        fitted = _tables(setting.fitted, rates, before, after, rng)
        tested = _tables(setting.tested, rates, before, after, rng, fitted.move)
        noisy = Setting(setting.train, setting.test, fitted, tested)
        values: dict[str, Any] = {m: area(ours(noisy, form).points(), low, high) for m, form in FORMS.items()}
        found[name] = {"before": before, "after": after, **values}
    return found


def _tables(
    tables: Tables, rates: Floats, before: float, after: float, rng: np.random.Generator, move: Floats | None = None
) -> Tables:
    """Tables of what two noisy looks at the truth tell: the first alone, or both once the model has run."""
    ok = tables.ok
    first = _estimates(ok + before * rng.standard_normal(ok.shape), before)
    second = _estimates(ok + after * rng.standard_normal(ok.shape), after)
    sets, _, models = tables.quality.shape
    quality = np.empty_like(tables.quality)
    for called in range(sets):
        there = np.isin(np.arange(models), members(called, models))
        quality[called] = sigmoid(rates + first + np.where(there, second, 0.0))
    cost = np.broadcast_to(tables.cost_usd, tables.cost.shape)
    return Tables(quality, cost, fit_moves(quality) if move is None else move, ok, tables.cost_usd)


def _estimates(looked: Floats, noise: float) -> Floats:
    """Log-odds for being right (1 against 0) of a look with normal noise."""
    found: Floats = (looked - 0.5) / noise**2
    return found
