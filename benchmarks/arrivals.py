"""When requests are sent in an open loop: a renewal process with gamma gaps (burstiness 1 is Poisson)."""

import numpy as np
from numpy.typing import NDArray


def arrival_times_s(n: int, rate: float, burstiness: float, seed: int) -> NDArray[np.float64]:
    """Scheduled send times in seconds from the start, ascending, shape [n]; the first is 0, all are 0 at rate inf.

    Gaps have mean 1/rate and coefficient of variation 1/sqrt(burstiness): below 1 is bursty, above 1 smooth, as in
    vLLM's and AIPerf's load generators. Raises ValueError for a rate or burstiness that is not positive.
    """
    if not rate > 0 or not burstiness > 0:
        raise ValueError(f"rate {rate} and burstiness {burstiness} must be positive")
    if np.isinf(rate):
        return np.zeros(n)
    gaps = np.random.default_rng(seed).gamma(shape=burstiness, scale=1.0 / (rate * burstiness), size=max(0, n - 1))
    return np.concatenate([[0.0], np.cumsum(gaps)])[:n]
