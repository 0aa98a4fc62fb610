"""Recorded answers made up for tests: a weak model whose log-probability tells how often it is right."""

import json
from pathlib import Path

import numpy as np

from serve_app.data.answers import AnswerEvidence
from serve_app.data.recorded import Recorded
from serve_app.types import Message, Query, TokenLogprob


def made_up(n: int = 400, seed: int = 0, models: tuple[str, ...] = ("small", "large")) -> Recorded:
    """Model k is right with a probability that its one token's log-probability tells; later ones are better, dearer."""
    rng = np.random.default_rng(seed)
    m = len(models)
    hard = rng.random(n)
    p = np.clip(1.2 - hard[:, None] * np.linspace(1.2, 0.3, m) + 0.1 * rng.normal(size=(n, m)), 0.02, 0.98)
    ok = (rng.random((n, m)) < p).astype(np.float64)
    cost = np.tile(10.0 ** np.arange(m) * 1e-5, (n, 1)) * rng.uniform(0.5, 1.5, (n, 1))
    queries = [Query((Message("user", f"query {i}"),)) for i in range(n)]
    judged = tuple(
        tuple(
            AnswerEvidence(
                q, f"answer {i}", (TokenLogprob("a", float(np.log(p[i, j])), (("a", float(np.log(p[i, j]))),)),)
            )
            for j in range(m)
        )
        for i, q in enumerate(queries)
    )
    return Recorded(
        models=models,
        prompts=tuple(q.text for q in queries),
        splits=tuple("train" if i % 2 else "test" for i in range(n)),
        ok=ok,
        cost_usd=cost,
        latency_ms=np.full((n, m), 100.0),
        confidence=np.log(p),
        tokens_in=np.full((n, m), 10.0),
        tokens_out=np.ones((n, m)),
        extra_cost_usd=np.zeros((n, m)),
        evidence=judged,
    )


def row(i: int = 0, **changes: object) -> dict:
    """A row of a file; `changes` of the answer of `small`."""
    small = {"ok": 1, "conf": -0.2, "cost": 1e-5, "ms": 12, "tin": 3, "tout": 1, "ans": "4", **changes}
    large = {"ok": 1, "conf": -0.1, "cost": 1e-4, "ms": 20, "tin": 3, "tout": 1, "ans": "4"}
    return {"i": i, "split": "train", "prompt": f"what is {i}?", "m": {"small": small, "large": large}}


def write(path: Path, rows: list) -> Path:
    """Rows as JSON lines; texts are written as they are."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), "utf-8")
    return path
