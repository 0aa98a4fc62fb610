"""The routers' cost-quality curves, what a threshold would do, and changes of the threshold in force, with undo."""

import asyncio
from typing import Annotated, Any, Final

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.admin import shapes
from serve_app.api.body import parse_object, read_body
from serve_app.api.openapi import Operation, QueryParameter, answers
from serve_app.api.query import check
from serve_app.api.reply import json_response
from serve_app.api.schemas import Part
from serve_app.errors import RequestError
from serve_app.gateway.forecast import RouterForecast
from serve_app.gateway.services import Services
from serve_app.gateway.thresholds import ThresholdControl

ADMIN_NAME: Final = "admin"
"""Who changed a threshold, where the operator's key was sent."""
_NAME: Final = {"name": "The router's name, as /v1/routers lists it."}
_READS: Final = (400, 404)
_WRITES: Final = (400, 404, 409, 413)


class ThresholdRequest(Part):
    """The body of POST /v1/admin/routers/{name}/threshold."""

    threshold: Annotated[float, Field(ge=0, le=1, description="Strong if the win rate is at least this.")]


class AdminRouters:
    """Handlers over the routers in service."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._control = ThresholdControl(services.config, services.routers)
        self._forecast = RouterForecast(services.config, services.routers, services.pools)

    def operations(self) -> list[Operation]:
        """All of them, described."""
        one = "/v1/admin/routers/{name}"
        listed, curve = "The routers in service and their thresholds.", "A router's cost-quality curve, with intervals."
        predict = "Share, quality and cost of a router at a threshold, before it is set."
        change, undo = "Serve a router at this threshold from now on.", "Take the last change of a threshold back."
        parameters = (
            QueryParameter("router", "The router's name.", {"type": "string", "minLength": 1}, required=True),
            QueryParameter("threshold", "From 0 to 1.", {"type": "number", "minimum": 0, "maximum": 1}, required=True),
        )
        changed = answers(shapes.CHANGED)
        return [
            Operation(
                *("GET", "/v1/admin/routers", "admin_list_routers", listed, self.all, answers(shapes.ROUTERS)),
                admin=True,
            ),
            Operation(
                *("GET", f"{one}/curve", "admin_router_curve", curve, self.curve, answers(shapes.CURVE), _READS),
                parameters=_NAME,
                admin=True,
            ),
            Operation(
                *("GET", "/v1/admin/predict", "admin_predict", predict, self.predict, answers(shapes.PREDICTION)),
                errors=_READS,
                query=parameters,
                admin=True,
            ),
            Operation(
                *("POST", f"{one}/threshold", "admin_set_threshold", change, self.set, changed, _WRITES),
                request=ThresholdRequest,
                parameters=_NAME,
                admin=True,
            ),
            Operation(
                *("POST", f"{one}/undo", "admin_undo_threshold", undo, self.undo, changed, (404, 409)),
                parameters=_NAME,
                admin=True,
            ),
        ]

    async def all(self, request: Request) -> Response:
        """Each router with its threshold and history."""
        names = [figures.name for figures in self._services.routers.figures()]
        data = [await self._control.state(name) for name in names]
        return json_response({"object": "list", "data": data})

    async def curve(self, request: Request) -> Response:
        """The curve of the calibration data, and the threshold in force on it."""
        name = request.path_params["name"]
        state = await self._control.state(name)
        found = await asyncio.to_thread(self._forecast.curve, name, state["threshold"])
        return json_response({**state, **found, "object": "router.curve"})

    async def predict(self, request: Request) -> Response:
        """What to expect of a threshold."""
        given = request.query_params
        name, threshold = given.get("router", ""), _threshold(given.get("threshold", ""))
        if not name:
            raise RequestError("router: name a router in service.", param="router", code="missing_required_parameter")
        state = await self._control.state(name)
        found = await asyncio.to_thread(self._forecast.predict, name, threshold, state["threshold"])
        return json_response({"object": "router.prediction", **found})

    async def set(self, request: Request) -> Response:
        """Change the threshold; the answer is sent once it is in force here and on its way to the other Gateways."""
        name = request.path_params["name"]
        body = await read_body(request.scope, request.receive, self._services.config.limits.body_bytes)
        given = check(ThresholdRequest, parse_object(body))
        change = await self._control.set(name, float(given.threshold), ADMIN_NAME)
        return json_response(await self._changed(name, change.to_json()))

    async def undo(self, request: Request) -> Response:
        """Change it back."""
        name = request.path_params["name"]
        change = await self._control.undo(name, ADMIN_NAME)
        return json_response(await self._changed(name, change.to_json()))

    async def _changed(self, name: str, change: dict[str, Any]) -> dict[str, Any]:
        return {**await self._control.state(name), "change": change}


def _threshold(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0.0 <= found <= 1.0:
        raise RequestError(
            f"threshold: {text[:40]!r} is not a number from 0 (always strong) to 1.",
            param="threshold",
            code="invalid_value",
        )
    return found
