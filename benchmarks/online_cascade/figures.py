"""Figures of replays: accuracy, recall by class, paired intervals over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.online_cascade.episodes import LLM, Replayed
from benchmarks.online_cascade.stream import Recorded

# 97.5 % quantiles of Student's t by degrees of freedom
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
WINDOW = 200
"""Queries of which accuracy is averaged along the stream."""


def measured(stream: Recorded, run: Replayed) -> dict[str, Any]:
    """Of one replay, JSON-ready: shares, accuracy against gold, recall by class, accuracy by who answered."""
    right = run.answers == stream.gold
    k = len(stream.labels)
    recall = [float(right[stream.gold == c].mean()) if (stream.gold == c).any() else float("nan") for c in range(k)]
    who = {str(int(w)): [int((run.by == w).sum()), float(right[run.by == w].mean())] for w in np.unique(run.by)}
    windows = [float(right[t : t + WINDOW].mean()) for t in range(0, len(stream), WINDOW)]
    called = [float((run.by[t : t + WINDOW] == LLM).mean()) for t in range(0, len(stream), WINDOW)]
    kept = {name: run.figures[name] for name in ("alarms_at", "computed", "agreement_overall") if name in run.figures}
    return {
        "accuracy": float(right.mean()),
        "calls": run.calls,
        "share": run.calls / len(stream),
        "recall": recall,
        "who": who,
        "windows": windows,
        "asked": called,
        **kept,
    }


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Mean and half of its 95 % interval (Student's t); nan for one seed."""
    a = np.asarray(values, dtype=float)
    half = _T.get(len(a) - 1, 1.96) * a.std(ddof=1) / np.sqrt(len(a)) if len(a) > 1 else float("nan")
    return {"mean": float(a.mean()), "half": float(half)}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one method at one budget, over seeds."""
    whos = sorted({who for run in runs for who in run["who"]}, key=int)
    return {
        "accuracy": over_seeds([run["accuracy"] for run in runs]),
        "share": over_seeds([run["share"] for run in runs]),
        "recall": np.mean([run["recall"] for run in runs], axis=0).tolist(),
        "answered": {w: float(np.mean([run["who"].get(w, [0, 0])[0] for run in runs])) for w in whos},
        "windows": np.mean([run["windows"] for run in runs], axis=0).tolist(),
        "asked": np.mean([run["asked"] for run in runs], axis=0).tolist(),
        "seeds": len(runs),
    }


def paired(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Difference of accuracy seed by seed."""
    return over_seeds([a["accuracy"] - b["accuracy"] for a, b in zip(ours, theirs, strict=True)])
