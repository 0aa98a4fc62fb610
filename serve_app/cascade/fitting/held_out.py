"""What a chain did to queries that it was not fitted on, and its artefact's figures of that, with 95 % intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.artefact import version_of
from serve_app.cascade.base import Chain, Level
from serve_app.data.recorded import Recorded
from serve_app.learning.metrics import Interval, bootstrap

ROUNDS: Final = 1_000
"""Of a bootstrap."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A chain's answers to queries it was not fitted on; arrays of shape [n]."""

    models: tuple[str, ...]
    level: NDArray[np.int64]
    quality: Floats
    cost_usd: Floats

    @property
    def reached(self) -> NDArray[np.bool_]:
        """Which queries reach the last model, shape [n]."""
        found: NDArray[np.bool_] = self.level == len(self.models) - 1
        return found

    @property
    def strong_share(self) -> float:
        """Share of queries that reach the last model."""
        return float(self.reached.mean())

    def route(self) -> str:
        """The chain's models as a message names them."""
        return " -> ".join(self.models)


def expected(
    held_out: HeldOut, recorded: Recorded, pools: Sequence[str], shifted: HeldOut | None = None
) -> dict[str, float]:
    """Figures of a chain for its artefact: means, and the drop against its last model, with 95 % intervals.

    `recorded` has the models of the chain. `shifted`: the same chain held out by kind of query (see `worth`).
    """
    strong = recorded.of(held_out.models[-1:])
    quality, share = interval(held_out.quality), interval(held_out.reached.astype(np.float64))
    found = drop(held_out.quality, strong.ok[:, 0])
    figures = {
        "quality": quality.value,
        "quality_low": quality.low,
        "quality_high": quality.high,
        "cost_usd": float(held_out.cost_usd.mean()),
        "strong_share": held_out.strong_share,
        "strong_share_low": share.low,
        "strong_share_high": share.high,
        "strong_quality": float(strong.ok.mean()),
        "strong_cost_usd": float(strong.cost_usd.mean()),
        "quality_drop": found.value,
        "quality_drop_low": found.low,
        "quality_drop_high": found.high,
    }
    if shifted is not None:
        figures["shifted_quality"] = float(shifted.quality.mean())
        figures["shifted_cost_usd"] = float(shifted.cost_usd.mean())
        figures["shifted_strong_share"] = shifted.strong_share
    for i, pool in enumerate(pools):
        figures[f"share:{pool}"] = float((held_out.level == i).mean())
        figures[f"reach:{pool}"] = float((held_out.level >= i).mean())
    return figures


def interval(values: Floats) -> Interval:
    """The mean of values [n], with its 95 % interval over resampled queries."""
    return bootstrap(lambda rows: float(values[rows].mean()), len(values), rounds=ROUNDS)


def drop(quality: Floats, strong: Floats) -> Interval:
    """Relative quality drop against always calling the strong model, (strong - quality) / |strong|, paired."""

    def relative(rows: NDArray[np.int64]) -> float:
        base = float(strong[rows].mean())
        return (base - float(quality[rows].mean())) / abs(base) if base else 0.0

    return bootstrap(relative, len(quality), rounds=ROUNDS)


def origin(recorded: Recorded, signals_prior: str | None, confidence_is: str | None) -> dict[str, Any]:
    """What an artefact was fitted with, as far as it is known: answers by hash and number, metric, prior, confidence.

    `signals_prior`: the router that the signals read; `confidence_is`: the signal whose values were recorded.
    """
    found: dict[str, Any] = {"digest": recorded.digest(), "queries": len(recorded), "figures": "cross-fitted"}
    named: Mapping[str, str | None] = {
        "metric": recorded.metric,
        "prior": signals_prior,
        "confidence_is": confidence_is,
    }
    return found | {key: value for key, value in named.items() if value}


def chain_of_levels(
    levels: tuple[Level, ...], held_out: HeldOut, recorded: Recorded, probe_tokens: int | None, shifted: HeldOut | None
) -> Chain:
    """The chain with its version, held-out figures and models, which `recorded` has."""
    figures = expected(held_out, recorded, [level.pool for level in levels], shifted)
    models = recorded.of(held_out.models).served
    return Chain(levels, version_of(levels, probe_tokens), figures, probe_tokens, models)
