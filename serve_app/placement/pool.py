"""A wrapper around every pool that no strategy gets past: a forbidden call is refused, and text is redacted before it.

It goes by the query's own reach and by that of the request that the current task works for, so that a query which a
strategy makes up on the way is held to the same pools.
"""

import secrets
from collections.abc import AsyncGenerator
from dataclasses import replace
from hashlib import sha256
from typing import Final

from serve_app.errors import PlacementForbidden
from serve_app.placement.redaction import Redactor
from serve_app.pools.base import CountingPool, Pool, PoolLoad
from serve_app.types import REACH, Capabilities, Query
from serve_app.wire.frames import Answer, Call, Frame

_SALT: Final = "cache_salt"
"""vLLM's parameter: prompts share a prefix cache only with those of the same salt."""


class PlacedPool:
    """A pool that only sees what it may. `redactor`: replaces personal data on the way; `salts`: its engine is vLLM."""

    def __init__(self, pool: Pool, *, redactor: Redactor | None = None, salts: bool = False) -> None:
        self.name, self.model, self.price = pool.name, pool.model, pool.price
        self.inner = pool
        self._redactor, self._salts = redactor, salts

    @property
    def capabilities(self) -> Capabilities:
        """Of the pool."""
        return self.inner.capabilities

    def load(self) -> PoolLoad:
        """Of the pool."""
        return self.inner.load()

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """See `Pool.stream`. Raises PlacementForbidden at the first frame if the pool may not see the query."""
        if (error := self._forbids(query)) is not None:
            return _raising(error)
        query = self._salted(query)
        if self._redactor is None:
            return self.inner.stream(query, call)
        return self._redactor.stream(self.inner, query, call)

    async def complete(self, query: Query, call: Call) -> Answer:
        """See `Pool.complete`. Raises PlacementForbidden if the pool may not see the query."""
        if (error := self._forbids(query)) is not None:
            raise error
        query = self._salted(query)
        if self._redactor is None:
            return await self.inner.complete(query, call)
        return await self._redactor.complete(self.inner, query, call)

    async def count_tokens(self, query: Query, call: Call) -> int | None:
        """See `CountingPool`: of the prompt as the pool would receive it."""
        if (error := self._forbids(query)) is not None:
            raise error
        if not isinstance(self.inner, CountingPool):
            return None
        if self._redactor is not None:
            query, _ = await self._redactor.redacted(query, call)
        return await self.inner.count_tokens(query, call)

    async def aclose(self) -> None:
        """Close the pool."""
        await self.inner.aclose()

    def _forbids(self, query: Query) -> PlacementForbidden | None:
        reach = REACH.get()
        if query.may_reach(self.name) and (reach is None or self.name in reach):
            return None
        return PlacementForbidden(
            f"{self.model} may not see this request by its privacy class: use a model that it may reach", param="model"
        )

    def _salted(self, query: Query) -> Query:
        """With a salt, so that its cache is not shared (class local) or within a tenant (private)."""
        if not self._salts or query.privacy == "any":
            return query
        own = query.stays_unrecorded or query.tenant is None
        salt = secrets.token_urlsafe(24) if own else f"tenant-{sha256(str(query.tenant).encode()).hexdigest()}"
        return replace(query, extra={**query.extra, _SALT: salt})


async def _raising(error: PlacementForbidden) -> AsyncGenerator[Frame, None]:
    raise error
    yield  # makes it a generator
