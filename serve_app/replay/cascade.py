"""Decisions of the cascade `small`, then `large`, under another threshold of confidence.

The small model has answered every request, and the log holds how likely its answer is to be right: it is taken if that
reaches the threshold, else the large model answers too. So the share of escalations is known for any threshold. The log
adds up the tokens of both calls; they are separated by the prices, taking it that both models read as many. What the
large model would have written to a request that it did not see is taken to be as long, by the small answer's length, as
in the decisions that were escalated. Quality is not predicted: nothing says what the large model's answer is worth
where it was not called.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from serve_app.arrays import Floats
from serve_app.config.tree import Config
from serve_app.errors import ConfigError
from serve_app.replay.bootstrap_curve import Prices
from serve_app.replay.estimate import ReplayResult, estimate
from serve_app.replay.log import DecisionColumns, LogSieve
from serve_app.replay.policy import Bools, Moves, RouterPolicy
from serve_app.types import Price

CASCADE: Final = "cascade"
"""The strategy of the model `jethro-cascade`."""
_NO_QUALITY: Final = (
    "the log says how sure the small model's answer looked, not what the large one's would be worth; see the ratings"
)


@dataclass(frozen=True)
class CascadePlan:
    """The cascade at another threshold. `in_force`: that of the latest decision."""

    policy: RouterPolicy
    in_force: float | None
    prices: Prices
    kind: str = CASCADE
    note: str | None = None

    @classmethod
    def of(cls, config: Config, log: DecisionColumns, threshold: float | None) -> Self:
        """The plan for the version of the chain that decided last. Raises ConfigError without such a decision."""
        if threshold is None or not 0.0 <= threshold <= 1.0:
            raise ConfigError("--threshold: give one from 0 (never escalate) to 1 for a cascade")
        rows = np.flatnonzero((log.strategy == CASCADE) & ~np.isnan(log.threshold))
        if not len(rows):
            raise ConfigError("no decision of the cascade is in the log: ask for the model jethro-cascade first")
        latest = int(rows[-1])
        policy = RouterPolicy(CASCADE, str(log.policy_version[latest]), threshold)
        pools = (config.pools.get(name) for name in ("small", "large"))
        weak, strong = (
            Price() if pool is None else Price(pool.price.input_usd_per_million, pool.price.output_usd_per_million)
            for pool in pools
        )
        return cls(policy, float(log.threshold[latest]), (weak, strong))

    def replay(self, log: DecisionColumns, *, upcoming: int | None = None) -> ReplayResult:
        """Decisions through the cascade at this threshold."""
        moves = move_cascade(log, self.policy)
        known = (*cascade_costs(moves, self.prices), _NO_QUALITY)
        return estimate(moves, self.prices, None, upcoming=upcoming, known=known)


def move_cascade(log: DecisionColumns, policy: RouterPolicy) -> Moves:
    """Which decisions would be escalated; those whose small answer was not checked are left out."""
    sieve = LogSieve(log)
    log = sieve.keep(log.strategy == CASCADE, "of other strategies than the cascade, which this does not change")
    log = sieve.keep(log.status == "completed", "failed or cancelled")
    log = sieve.keep(log.policy_version == policy.version, f"of another version of the chain than {policy.version}")
    log = sieve.keep((log.pool == policy.weak) | (log.pool == policy.strong), "answered by another pool")
    log = sieve.keep(~np.isnan(log.score) & ~np.isnan(log.threshold), f"whose answer of {policy.weak} was not checked")
    served = log.pool == policy.strong
    forced = (log.score < log.threshold) != served
    after = np.where(forced, served, log.score < policy.threshold)
    return Moves(policy, log, log.score, served, after, forced, sieve.left_out)


def cascade_costs(moves: Moves, prices: Prices) -> tuple[Floats, str]:
    """USD of each decision under the policy, and how they were found."""
    log, (weak, strong) = moves.log, prices
    read = log.prompt_tokens / np.where(moves.served, 2, 1)  # of one call
    written = _weak_tokens(log, prices, moves.served)
    cost = log.cost_usd.copy()
    down, up = moves.moved & moves.served, moves.moved & ~moves.served
    cost[down] = (read * weak.input_usd_per_million + written * weak.output_usd_per_million)[down] / 1e6
    theirs, ours = (log.completion_tokens - written)[moves.served].sum(), written[moves.served].sum()
    longer = theirs / ours if ours > 0 else 1.0
    more = (read * strong.input_usd_per_million + longer * written * strong.output_usd_per_million) / 1e6
    cost[up] += more[up]
    note = (
        "both models are taken to read the same tokens; the large model's answer where it was not called is taken to "
        f"be {longer:.3g} times as long as the small one's, as in the decisions that were escalated"
    )
    return cost, note


def _weak_tokens(log: DecisionColumns, prices: Prices, escalated: Bools) -> Floats:
    """Tokens that the weak model wrote: all of an answer that was taken, else what the cost says."""
    weak, strong = prices
    apart = strong.output_usd_per_million - weak.output_usd_per_million
    if apart == 0:
        return np.where(escalated, log.completion_tokens / 2, log.completion_tokens)
    reading = (weak.input_usd_per_million + strong.input_usd_per_million) * log.prompt_tokens / 2
    found = (reading + strong.output_usd_per_million * log.completion_tokens - 1e6 * log.cost_usd) / apart
    return np.where(escalated, np.clip(found, 0.0, log.completion_tokens), log.completion_tokens)
