"""The fitted cascade router as it serves: which model first, and after each answer which one next, or whose answer.

Plain arithmetic in numpy, no wait and no state: what has been answered is handed in at each call. Asking, deadlines and
failures are the strategy's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.base import Signal
from serve_app.cascade.routing.estimates import Estimates
from serve_app.cascade.routing.mixing import Mixture
from serve_app.cascade.routing.seen import Seen, agreement
from serve_app.cascade.routing.supermodels import STOP
from serve_app.cascade.routing.walk import best_answer

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A query as the estimates see it. `coin`: a uniform draw in [0, 1), one for the whole query.

    `vector`: the encoder's, shape [d], for a router with an encoder.
    """

    characters: int
    coin: float
    vector: NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that was given: raw signal (nan where it cannot be told), text, and what it has cost in US dollars."""

    pool: str
    signal: float
    text: str
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Advice:
    """Ask `ask` next; or, where that is None, stop and take the answer of `take` (None only if nobody can be asked).

    `take` is the best answer so far in any case. `quality`: estimated probability of being right of every pool's
    answer, `cost_usd`: of every pool not asked yet.
    """

    ask: str | None
    take: str | None
    quality: Mapping[str, float]
    cost_usd: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CascadeRouter:
    """Cascade routing (Dekoninck, Baader & Vechev 2025) over `pools`, fitted to a mean cost a query.

    `signals[pool]` judges that pool's answers; None: the raw confidence it was fitted on. `move` as `fit_moves` gives
    it. `encoder` with its digest, None where prompts are not read. `expected`: cross-fitted figures at the fit.
    """

    pools: tuple[str, ...]
    estimates: Estimates
    move: Floats
    mixture: Mixture
    signals: Mapping[str, Signal | None] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    encoder: str | None = None
    encoder_digest: str | None = None
    version: str = ""
    expected: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def start(self, prompt: Prompt, without: Sequence[str] = ()) -> Advice:
        """Before any answer. `without`: pools that cannot be asked."""
        return self.after(prompt, (), without)

    def after(self, prompt: Prompt, answers: Sequence[Answered], without: Sequence[str] = ()) -> Advice:
        """After the answers so far, in any order. Raises ValueError for an unknown pool or one that answers twice."""
        asked, seen = self._seen(prompt, answers)
        rows = self.estimates.evidence(seen)
        quality = self.estimates.qualities(asked, rows)
        cost = self.estimates.costs(asked, seen)
        policy = self.mixture.policy(prompt.coin)
        chosen = STOP
        allowed = (2 ** len(self.pools) - 1) & ~self._mask(without)
        if usable := allowed & policy.models or (0 if asked else allowed):
            chosen = int(policy.next(asked, quality, cost, self.move[asked], usable)[0])
        take = None
        if answers:
            before = self.estimates.qualities(0, rows)
            take = self.pools[int(best_answer(np.array([asked]), quality, before, policy.margin)[0])]
        return Advice(
            ask=None if chosen == STOP else self.pools[chosen],
            take=take,
            quality=dict(zip(self.pools, quality[0].tolist(), strict=True)),
            cost_usd={
                p: c for m, (p, c) in enumerate(zip(self.pools, cost[0].tolist(), strict=True)) if not asked >> m & 1
            },
        )

    def _seen(self, prompt: Prompt, answers: Sequence[Answered]) -> tuple[int, Seen]:
        k = len(self.pools)
        asked = self._mask([answer.pool for answer in answers])
        if asked.bit_count() < len(answers):
            raise ValueError(f"a pool answers twice: {', '.join(answer.pool for answer in answers)}")
        signal, cost, texts = np.full((1, k), np.nan), np.zeros((1, k)), [""] * k
        for answer in answers:
            at = self.pools.index(answer.pool)
            signal[0, at], cost[0, at], texts[at] = answer.signal, answer.cost_usd, answer.text
        vectors = None if prompt.vector is None else np.asarray(prompt.vector, dtype=np.float64)[None]
        return asked, Seen(signal, agreement(texts)[None], cost, np.array([float(prompt.characters)]), vectors)

    def _mask(self, pools: Sequence[str]) -> int:
        found = 0
        for pool in pools:
            if pool not in self.pools:
                raise ValueError(f"no pool {pool!r}: the router has {', '.join(self.pools)}")
            found |= 1 << self.pools.index(pool)
        return found
