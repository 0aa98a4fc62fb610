"""A Gateway's places shared among tenants: nobody can take so many that the others find none.

Dynamic thresholds (Choudhury & Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998): a
tenant may hold at most `alpha` x weight times the places that are free. Alone it gets alpha / (1 + alpha) of all; when
n tenants ask for more than there is, each gets alpha / (1 + n alpha); and some places stay free for who comes next.
"""

from collections.abc import Mapping

from serve_app.errors import Overloaded


class FairPlaces:
    """`enter` before a request, `leave` after it. One event loop, no locks."""

    def __init__(
        self, places: int, tenant_share: float | None, weights: Mapping[str, float], retry_after_s: float
    ) -> None:
        """`tenant_share`: of all places, for a tenant of weight 1 when alone; None: no bound."""
        self._free = places
        self._alpha = tenant_share / (1 - tenant_share) if tenant_share is not None else None
        self._weights = weights
        self._retry_after_s = retry_after_s
        self._held: dict[str, int] = {}

    def enter(self, tenant: str | None) -> None:
        """Take a place; always followed by `leave`, unless it raises Overloaded. Without tenants nobody is bounded."""
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
        """Give the place back."""
        name = tenant or ""
        self._free += 1
        self._held[name] -= 1
        if not self._held[name]:
            del self._held[name]


def unbounded() -> FairPlaces:
    """Places for all."""
    return FairPlaces(0, None, {}, 0.0)
