"""Limits what each tenant may hold of a Gateway's concurrency, so that no tenant can take all of it.

Dynamic thresholds (Choudhury & Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998): a
tenant may hold at most `alpha` x weight times the free slots. Alone it gets alpha / (1 + alpha) of all; when n tenants
demand more than there is, each gets alpha / (1 + n alpha); and some slots stay free for the next tenant.
"""

from collections.abc import Mapping
from types import MappingProxyType

from serve_app.errors import Overloaded


class FairLimiter:
    """`enter` before a request, `leave` after it. One event loop, no locks."""

    def __init__(
        self,
        slots: int = 0,
        tenant_share: float | None = None,
        weights: Mapping[str, float] = MappingProxyType({}),
        retry_after_s: float = 0.0,
    ) -> None:
        """`tenant_share`: of all slots, for a tenant of weight 1 when alone; None: unlimited."""
        self._free = slots
        self._alpha = tenant_share / (1 - tenant_share) if tenant_share is not None else None
        self._weights = weights
        self._retry_after_s = retry_after_s
        self._held: dict[str, int] = {}

    def enter(self, tenant: str | None) -> None:
        """Take a slot; call `leave` afterwards, unless it raises Overloaded. Unlimited without a tenant."""
        held = self._held.get(tenant or "", 0)
        if tenant is not None and self._alpha is not None:
            bound = self._alpha * self._weights.get(tenant, 1.0) * self._free
            if held >= max(bound, 1.0):
                raise Overloaded(
                    f"{held} requests of yours are open, which is your share now; try again when some have ended",
                    code="tenant_share",
                    retry_after_s=self._retry_after_s,
                )
        self._held[tenant or ""] = held + 1
        self._free -= 1

    def leave(self, tenant: str | None) -> None:
        """Return the slot."""
        name = tenant or ""
        self._free += 1
        self._held[name] -= 1
        if not self._held[name]:
            del self._held[name]
