"""Logs of decisions over a calibration's queries: the truth of both pools is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.arrays import Floats
from serve_app.decision.threshold import Calibration
from serve_app.replay.log import DecisionColumns
from serve_app.types import Price

PRICES = (Price(0.1, 0.2), Price(1.0, 3.0))
VERSION = "fake-12345678"


def traffic(n: int, seed: int = 0) -> Calibration:
    """Queries of a well-calibrated router: the harder, the worse is the weak answer, and the longer the strong one."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    weak = (rng.random(n) > scores).astype(float)
    strong = (rng.random(n) < 0.95).astype(float)
    weak_tokens = np.stack([rng.integers(10, 90, n), rng.integers(1, 30, n)], axis=1).astype(float)
    strong_tokens = weak_tokens * [1.0, 1.0] + np.stack([np.zeros(n), rng.integers(0, 40, n) * scores], axis=1).round()
    return Calibration(scores, weak, strong, weak_tokens, strong_tokens)


@dataclass
class Served:
    """What a policy makes of queries, with the true costs and qualities."""

    strong: Any
    cost_usd: Floats
    quality: Floats


def serve(queries: Calibration, threshold: float) -> Served:
    strong = queries.scores >= threshold
    tokens = np.where(strong[:, None], queries.strong_tokens, queries.weak_tokens)
    rates = np.array([[p.input_usd_per_million, p.output_usd_per_million] for p in PRICES]) / 1e6
    quality = np.where(strong, queries.strong_quality, queries.weak_quality)
    return Served(strong, (tokens * rates[strong.astype(int)]).sum(1), quality)


def records(queries: Calibration, at: float, **changes: Sequence[Any] | Any) -> list[dict[str, Any]]:
    """As the API sends them; a change is a value for all, or a list of one for each."""
    served = serve(queries, at)
    found = []
    for i, score in enumerate(queries.scores):
        strong = bool(served.strong[i])
        prompt, completion = (queries.strong_tokens if strong else queries.weak_tokens)[i]
        record = {
            "decision_id": f"d{i:06}",
            "created_s": 1_700_000_000.0 + i,
            "strategy": "route",
            "pool": "large" if strong else "small",
            "status": "completed",
            "endpoint": "chat",
            "router": "fake",
            "policy_version": f"{VERSION}@{at:.6g}",
            "privacy": "any",
            "score": float(score),
            "threshold": at,
            "cost_usd": float(served.cost_usd[i]),
            "prompt_tokens": int(prompt),
            "completion_tokens": int(completion),
            "feedback": [],
        }
        found.append(record | {k: v[i] if isinstance(v, list) else v for k, v in changes.items()})
    return found


def log(queries: Calibration, at: float, **changes: Any) -> DecisionColumns:
    return DecisionColumns.of_records(records(queries, at, **changes))
