"""Figures over seeds: accuracy, mean recall, and differences from the cascade as it ships, paired by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.online_cascade.figures import over_seeds
from benchmarks.skewed_streams.runs import CASCADE, MARGINS

Runs = Sequence[Mapping[str, Any]]


def summary(runs: Runs, cascade: Runs) -> dict[str, Any]:
    """Of one method at one share of calls; `against`: the cascade's accuracy minus its own, with a standard error."""
    return {
        "accuracy": over_seeds([run["accuracy"] for run in runs]),
        "mean_recall": over_seeds([_mean_recall(run) for run in runs]),
        "calls": [run["calls"] for run in runs],
        "against": _paired([a["accuracy"] - b["accuracy"] for a, b in zip(cascade, runs, strict=True)]),
        "recall_against": _paired([_mean_recall(a) - _mean_recall(b) for a, b in zip(cascade, runs, strict=True)]),
    }


def verdict(streams: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """For each stream, share of calls and margin sampling: whether the cascade's accuracy is below it.

    It is below where the difference is more than two standard errors under zero.
    """
    found = []
    for stream, shares in streams.items():
        for share, methods in shares.items():
            for name in MARGINS:
                difference = methods[name]["against"]
                not_below = bool(difference["mean"] >= -2 * difference["error"])
                equal = methods[name]["calls"] == methods[CASCADE]["calls"]
                found.append({"stream": stream, "share": share, "baseline": name, "not_below": not_below})
                found[-1] |= {"difference": difference, "equal_calls": equal}
    return found


def _mean_recall(run: Mapping[str, Any]) -> float:
    return float(np.nanmean(run["recall"]))


def _paired(differences: Sequence[float]) -> dict[str, float]:
    """Mean and standard error; nan for one seed."""
    a = np.asarray(differences)
    error = a.std(ddof=1) / np.sqrt(len(a)) if len(a) > 1 else float("nan")
    return {"mean": float(a.mean()), "error": float(error)}
