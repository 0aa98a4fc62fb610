"""Measures a fitted cascade router on recorded answers that it was not fitted on, with 95 % intervals."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.cascade.fitting.confidence import check_defined, recorded_values, signal_values
from serve_app.cascade.routing.estimates import Observations, observations_of
from serve_app.cascade.routing.fitting import estimate_all
from serve_app.cascade.routing.router import CascadeRouter
from serve_app.cascade.routing.walk import Tables, walk
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.cascade.signals.combined import joint_needs
from serve_app.cascade.signals.specs import parts_of
from serve_app.data.recorded import Recorded
from serve_app.errors import DataError
from serve_app.learning.encoder import load_encoder

_ROUNDS: Final = 1_000


def evaluate_routing(router: CascadeRouter, recorded: Recorded, seed: int = 0) -> Mapping[str, float]:
    """Means over queries and over the coin between the router's two policies; each `x` with `x_low` and `x_high`.

    `quality`, `cost_usd`, and of each pool `share:` (whose answer is taken) and `reach:` (that is called); also
    `strong_quality`, the best single model's. The intervals resample queries and coins. Raises DataError for a pool
    without recorded answers, InsufficientData for a signal that is undefined for all of them.
    """
    if missing := [pool for pool in router.pools if pool not in recorded.models]:
        raise DataError(
            f"the recorded answers have none of {missing[0]}: they have {', '.join(recorded.models)}; the router calls "
            f"{', '.join(router.pools)}"
        )
    mine = recorded.of(router.pools)
    tables = _tables(router, mine)
    cheap, dear = (walk(tables, policy) for policy in (router.mixture.cheap, router.mixture.dear))
    columns: dict[str, tuple[Floats, Floats]] = {
        "quality": (cheap.quality, dear.quality),
        "cost_usd": (cheap.cost_usd, dear.cost_usd),
    }
    for m, pool in enumerate(router.pools):
        columns[f"share:{pool}"] = _floats(cheap.answer == m), _floats(dear.answer == m)
        columns[f"reach:{pool}"] = _floats(cheap.called >> m & 1), _floats(dear.called >> m & 1)
    rng, n, share = np.random.default_rng(seed), len(mine), router.mixture.share
    rows = rng.integers(0, n, (_ROUNDS, n))
    coins = rng.random((_ROUNDS, n)) < share
    found = {"strong_quality": float(mine.ok.mean(0).max())}
    for name, (one, other) in columns.items():
        drawn = np.where(coins, other[rows], one[rows]).mean(1)
        found[name] = float(((1 - share) * one + share * other).mean())
        found[f"{name}_low"], found[f"{name}_high"] = np.percentile(drawn, (2.5, 97.5)).tolist()
    return found


def _tables(router: CascadeRouter, mine: Recorded) -> Tables:
    """Estimates of every query in every state, as the router has them when it serves, and what really came of it."""
    seen = _seen(router, mine)
    quality, cost = estimate_all(router.estimates, seen)
    return Tables(quality, cost, router.move, mine.ok, seen.cost_usd)


def _seen(router: CascadeRouter, mine: Recorded) -> Observations:
    signals = [router.signals.get(pool) for pool in router.pools]
    known = [signal for signal in signals if signal is not None]
    if known and (joint_needs(known).samples or joint_needs(known).verdicts):
        cost = mine.cost_usd + mine.extra_cost_usd
    else:
        cost = mine.cost_usd
    confidence = mine.confidence.copy()
    for m, signal in enumerate(signals):
        if signal is None:
            continue
        parts = [part for part in parts_of(signal) if not isinstance(part, AnswerScorer)]
        raw = recorded_values(parts, mine, m, confidence_is=router.data.get("confidence_is"))
        check_defined(parts, raw, router.pools[m])
        confidence[:, m] = signal_values(signal, raw, [row[m] for row in mine.evidence])
    vectors = None
    if router.encoder is not None:
        vectors = load_encoder(router.encoder).embed(mine.prompts).astype(np.float64)
    seen = observations_of(mine, vectors, confidence)
    return Observations(seen.confidence, seen.agree, cost, seen.characters, seen.vectors)


def _floats(values: object) -> Floats:
    return np.asarray(values, dtype=np.float64)
