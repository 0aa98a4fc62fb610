"""GET /v1/admin/live: what all Gateways do right now, and the last ten minutes of it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import shapes
from serve_app.api.openapi import Operation, QueryParameter, answers
from serve_app.api.reply import json_response
from serve_app.errors import RequestError
from serve_app.gateway.services import Services
from serve_app.observability.live import WINDOWS, merged, merged_calibration

LIVE: Final = "/v1/admin/live"
_KEPT_S: Final = 1.0
"""For so long one look at the Gateways serves all who watch."""


class LiveRoutes:
    """The handler over the services."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = asyncio.Lock()
        self._looked_s = float("-inf")
        self._seen: Sequence[Mapping[str, Any]] = ()

    def operations(self) -> list[Operation]:
        """The one, described."""
        live = "What all Gateways do now: shares, cost, latencies, pools, and ten minutes of history."
        window = QueryParameter("window_s", "What the totals are of; 60 by default.", {"enum": list(map(str, WINDOWS))})
        found = answers(shapes.LIVE)
        return [
            Operation("GET", LIVE, "admin_live", live, self.live, found, (400,), query=(window,), admin=True),
        ]

    async def live(self, request: Request) -> Response:
        """Totals over `window_s`, the history, and the pools."""
        window_s = _window(request.query_params.get("window_s"))
        gateways, now_s = await self._gateways(), time.time()
        figures = merged([g["steps"] for g in gateways], now_s, window_s)
        return json_response(
            {
                "object": "live",
                "now_s": now_s,
                **figures,
                "gateways": len(gateways),
                "in_flight": sum(g["in_flight"] for g in gateways),
                "pools": self._pools([g["pools"] for g in gateways]),
                "calibration": merged_calibration(g["calibration"] for g in gateways),
                "embedded": self._services.scope.scope is not None,
            }
        )

    async def _gateways(self) -> Sequence[Mapping[str, Any]]:
        async with self._lock:
            if time.monotonic() - self._looked_s > _KEPT_S:
                look = self._services.live_gateways
                self._seen = [own_figures(self._services)] if look is None else await look()
                self._looked_s = time.monotonic()
            return self._seen

    def _pools(self, seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Every pool: what its config says, and its load as the Gateways see it together."""
        found = {}
        for name, settings in self._services.config.pools.items():
            views = [pools[name] for pools in seen if name in pools]
            found[name] = {
                "model": settings.model,
                "engine": settings.engine.kind,
                "embedded": settings.embedded,
                "price": settings.price.model_dump(),
                "ok": any(view["ok"] for view in views),
                "why": next((view["why"] for view in views if not view["ok"]), None),
                "replicas": max((view["replicas"] for view in views), default=0),
                "in_flight": sum(view["in_flight"] for view in views),
                "waiting": max((view["waiting"] for view in views), default=0),
            }
        return found


def own_figures(services: Services) -> dict[str, Any]:
    """One Gateway's part, as it travels between Gateways."""
    return {
        "steps": services.live.steps(),
        "in_flight": len(services.stops),
        "calibration": [reading._asdict() for reading in services.recorder.calibration()],
        "pools": {name: dict(pool) for name, pool in services.readiness().pools.items()},
    }


def _window(given: str | None) -> int:
    if given is None:
        return 60
    if given not in map(str, WINDOWS):
        expected = ", ".join(map(str, WINDOWS))
        raise RequestError(f"window_s is one of {expected} seconds.", param="window_s", code="invalid_value")
    return int(given)
