"""What is asked of pools to collect a dataset, and how; what a run tells of itself."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from serve_app.pools.base import Pool
from serve_app.pools.retry import Backoff
from serve_app.types import Query, Sampling


@dataclass(frozen=True, slots=True)
class Asked:
    """A query to ask, its id, the group it counts in, and the right answer where one is known."""

    query: Query
    id: str
    group: str = ""
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class How:
    """How to ask: `sampling.n` answers of each pool to each query, at most `per_call` in one call (engines bound it).

    With `sampling.seed` each call has a seed of its own, drawn from that one, the query and the pool. `concurrency`
    counts calls. A Retry-After is honoured up to ten minutes.
    """

    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    concurrency: int = 16
    per_call: int = 8
    backoff: Backoff = field(default_factory=lambda: Backoff(8, base_s=0.5, cap_s=30.0, longest_retry_after_s=600.0))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, counted in (query, pool): `fresh` of the `done` were answered by this run, in `elapsed_s`."""

    done: int
    total: int
    failed: int
    fresh: int
    elapsed_s: float
    spent_usd: float
    """Of all runs together."""
    trouble: str = ""
    """The last failure that is being tried again."""

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the rate of this run; None before it has answered anything."""
        return self.elapsed_s / self.fresh * (self.total - self.done) if self.fresh else None


Tell = Callable[[Progress], None]


def asked_of(asked: Sequence[Asked], pools: Mapping[str, Pool], how: How) -> dict[str, Any]:
    """What a journal's entries answer, as its first line keeps it."""
    digest = blake2b(digest_size=16)
    for item in asked:
        messages = [m.to_openai() for m in item.query.messages]
        digest.update(json.dumps([item.id, messages]).encode() + b"\n")
    sampling = how.sampling
    return {
        "queries": len(asked),
        "queries_digest": digest.hexdigest(),
        "pools": {name: pool.model for name, pool in pools.items()},
        "samples": sampling.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        **({"logprobs": sampling.top_logprobs} if sampling.logprobs else {}),
    }
