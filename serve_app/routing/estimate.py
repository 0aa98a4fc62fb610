"""Estimates of several pools' answers before any call: quality with its uncertainty, tokens, cost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from serve_app.arrays import Floats
from serve_app.routing.base import Router
from serve_app.types import Price, Query


@dataclass(frozen=True, slots=True)
class Estimate:
    """For n queries and p pools: arrays of shape [n, p], columns in the order of `pools`.

    `quality` is the mean quality of a pool's answers in the unit of the metric, `std` the standard error of that
    estimate (not the spread of single answers), tokens are expected numbers.
    """

    pools: tuple[str, ...]
    quality: Floats
    std: Floats
    prompt_tokens: Floats
    completion_tokens: Floats

    def __post_init__(self) -> None:
        for name in ("quality", "std", "prompt_tokens", "completion_tokens"):
            shape = getattr(self, name).shape
            if len(shape) != 2 or shape != self.quality.shape or shape[1] != len(self.pools):
                raise ValueError(f"estimate of {len(self.pools)} pools: {name} has shape {shape}")

    def __len__(self) -> int:
        return len(self.quality)

    def cost_usd(self, prices: Mapping[str, Price]) -> Floats:
        """Expected cost of one answer at these prices, [n, p]. Raises KeyError for a pool without a price."""
        read = np.array([prices[p].input_usd_per_million for p in self.pools]) / 1e6
        write = np.array([prices[p].output_usd_per_million for p in self.pools]) / 1e6
        cost: Floats = self.prompt_tokens * read + self.completion_tokens * write
        return cost

    def only(self, pools: Collection[str]) -> "Estimate":
        """The columns of these pools, as far as they are there, in their order."""
        at = [j for j, pool in enumerate(self.pools) if pool in pools]
        arrays = (self.quality, self.std, self.prompt_tokens, self.completion_tokens)
        return Estimate(tuple(self.pools[j] for j in at), *(a[:, at] for a in arrays))

    def row(self, i: int) -> "Estimate":
        """Query i alone, arrays of shape [1, p]."""
        arrays = (self.quality, self.std, self.prompt_tokens, self.completion_tokens)
        return Estimate(self.pools, *(a[i : i + 1] for a in arrays))


@runtime_checkable
class EstimatingRouter(Router, Protocol):
    """A router that also estimates pools one by one, whatever their number."""

    models_: Mapping[str, str]
    """The model ids whose answers it learned from, by pool."""

    def estimate(self, queries: Sequence[Query]) -> Estimate:
        """Estimates of all pools that it learned of, [len(queries), p]."""
