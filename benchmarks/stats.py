"""Percentiles and summaries, in the terms of vLLM's benchmark results."""

from collections.abc import Sequence

import numpy as np


def percentile(values: Sequence[float], p: float) -> float:
    """The p-th percentile (0 to 100), linear between neighbours; NaN for no values."""
    if not 0 <= p <= 100:
        raise ValueError(f"percentile {p}: it must lie between 0 and 100")
    return float(np.percentile(values, p)) if len(values) else float("nan")


def median(values: Sequence[float]) -> float:
    """The middle value; NaN for no values."""
    return percentile(values, 50)


def summary(name: str, values_s: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    """`mean_{name}_ms`, `median_`, `std_` and one `pXX_` per percentile, from seconds; zeros for no values, as vLLM."""
    if not len(values_s):
        keys = ["mean", "median", "std", *(f"p{p:g}" for p in percentiles)]
        return {f"{key}_{name}_ms": 0.0 for key in keys}
    ms = np.asarray(values_s, dtype=np.float64) * 1e3
    found = {"mean": ms.mean(), "median": np.median(ms), "std": ms.std()}
    found |= {f"p{p:g}": np.percentile(ms, p) for p in percentiles}
    return {f"{key}_{name}_ms": float(value) for key, value in found.items()}
