"""A budget met exactly: two policies of one shape, the cheaper and the dearer side of one λ, drawn with share γ.

As λ falls a policy spends more, in steps where estimates tie. Of the two limits of such a step the one breaks ties to
the cheapest, the other to the dearest, and a coin between them spends any mean in between (Dekoninck et al. 2025,
theorem 1): no single λ could.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.walk import Policy, Tables, Walked, always, walk
from serve_app.errors import ConfigError

Floats = NDArray[np.float64]
PRICES = 40
"""Rungs of the ladder of λ."""
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Mixture:
    """`dear` with probability `share`, else `cheap`."""

    cheap: Policy
    dear: Policy
    share: float

    def policy(self, coin: float) -> Policy:
        """The policy of a query whose uniform draw in [0, 1) is `coin`. Draw once for each query, not each decision."""
        return self.dear if coin < self.share else self.cheap


@dataclass(frozen=True, slots=True)
class Rung:
    """A policy and what it does."""

    policy: Policy
    walked: Walked

    @property
    def cost_usd(self) -> float:
        """Mean."""
        return float(self.walked.cost_usd.mean())

    @property
    def quality(self) -> float:
        """Mean."""
        return float(self.walked.quality.mean())


def prices(cost_usd: Floats, rungs: int = PRICES) -> list[float]:
    """λ from where nothing but the cheapest model pays down to 0, for costs [n, K] in US dollars.

    No quality is worth more than 1, so that above 1 over the cheapest model's cost nobody is asked twice.
    """
    cheapest = cost_usd.mean(0)
    unit = 1.0 / max(float(cheapest[cheapest > 0].min()) if (cheapest > 0).any() else 1.0, 1e-300)
    return [4.0 * unit, *(np.geomspace(2.0, 1e-4, rungs - 2) * unit).tolist(), 0.0]


def ladder(tables: Tables, shape: Policy, at: list[float] | None = None) -> list[Rung]:
    """The policies of one shape at falling λ, walked; before them the cheapest model alone, their limit."""
    found = [replace(shape, price=price) for price in (prices(tables.cost_usd) if at is None else at)]
    found = [always(int(tables.cost_usd.mean(0).argmin())), *found]
    return [Rung(policy, walk(tables, policy)) for policy in found]


def mix(rungs: list[Rung], budget_usd: float) -> Mixture:
    """The mixture of two neighbouring rungs whose mean cost is the budget; the dearest rung alone if it costs less.

    Raises ConfigError for a budget below the cheapest rung.
    """
    costs = [rung.cost_usd for rung in rungs]
    if budget_usd < min(costs) * (1 - _SLACK):
        raise ConfigError(
            f"a budget of {budget_usd:.3g} USD a query cannot be kept: the cheapest costs {min(costs):.3g}; raise it"
        )
    kept = [i for i, cost in enumerate(costs) if cost <= budget_usd * (1 + _SLACK)]
    last = max(kept)  # λ falls with i: the lowest price that keeps the budget
    if last == len(rungs) - 1:
        return Mixture(rungs[last].policy, rungs[last].policy, 0.0)
    cheap, dear = rungs[last], rungs[last + 1]
    share = (budget_usd - cheap.cost_usd) / (dear.cost_usd - cheap.cost_usd)
    return Mixture(cheap.policy, dear.policy, min(max(share, 0.0), 1.0))


def refined(tables: Tables, rungs: list[Rung], budget_usd: float, steps: int = 12) -> Mixture:
    """`mix`, after λ between the two rungs was halved `steps` times: the two sides of one λ, as near as it matters."""
    found = mix(rungs, budget_usd)
    cheap, dear = found.cheap, found.dear
    if cheap == dear:
        return found
    sides = [Rung(policy, walk(tables, policy)) for policy in (cheap, dear)]
    high, low = cheap.price if cheap.form == dear.form else 64.0 * dear.price, dear.price
    for _ in range(steps):
        between = (high * low) ** 0.5 if low > 0 else high / 8.0
        rung = Rung(policy := replace(dear, price=between), walk(tables, policy))
        high, low = (between, low) if rung.cost_usd <= budget_usd else (high, between)
        sides[0 if rung.cost_usd <= budget_usd else 1] = rung
    return mix(sides, budget_usd)


def expected(tables: Tables, mixture: Mixture) -> Walked:
    """What the mixture does in expectation over its coin: quality and cost of each query; `asked` is the dear one's."""
    cheap, dear = walk(tables, mixture.cheap), walk(tables, mixture.dear)
    share = mixture.share
    return Walked(
        (1 - share) * cheap.quality + share * dear.quality,
        (1 - share) * cheap.cost_usd + share * dear.cost_usd,
        dear.asked,
        dear.answer,
    )
