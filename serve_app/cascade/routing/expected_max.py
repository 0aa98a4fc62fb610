"""Expected maximum of normal variables: exact for two (Clark 1961), by fixed draws for more.

The draws are pseudo-random with their mirror images, scaled to unit variance: the same at every call.
"""

from functools import lru_cache
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 128


def expected_max_of_two(one: Floats, other: Floats, std_of_difference: Floats) -> Floats:
    """E[max(X, Y)] of jointly normal X and Y, arrays of means of one shape: b + d Φ(d / s) + s φ(d / s), d = a - b."""
    d = one - other
    s = np.maximum(std_of_difference, 1e-12)
    t = d / s
    density = np.exp(-0.5 * t**2) / sqrt(2.0 * pi)
    found: Floats = other + d * _normal_cdf(t) + s * density
    return np.where(std_of_difference > 1e-12, found, np.maximum(one, other))


@lru_cache(maxsize=16)
def standard_draws(dimensions: int) -> Floats:
    """[DRAWS, dimensions] of a standard normal, mean 0 in each dimension. Do not write to it."""
    rng = np.random.default_rng(20_250_101)
    half = rng.standard_normal((DRAWS // 2, dimensions))
    half /= np.sqrt((half**2).mean(0))
    found = np.concatenate([half, -half])
    found.flags.writeable = False
    return found


def _normal_cdf(t: Floats) -> Floats:
    """Φ by Abramowitz & Stegun 7.1.26, off by at most 1e-7: numpy has no error function."""
    x = np.abs(t) / sqrt(2.0)
    k = 1.0 / (1.0 + 0.3275911 * x)
    tail = k * (0.254829592 + k * (-0.284496736 + k * (1.421413741 + k * (-1.453152027 + k * 1.061405429))))
    upper = 0.5 * tail * np.exp(-(x**2))
    return np.where(t >= 0, 1.0 - upper, upper)
