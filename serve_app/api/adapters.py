"""The routes of LoRA adapters: list, get, add, pin, remove. A change reaches every Gateway and replica."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import shapes
from serve_app.api.body import parse_object, read_body
from serve_app.api.middleware import CALLER, Caller
from serve_app.api.openapi import Operation, answers
from serve_app.api.query import check
from serve_app.api.reply import json_response
from serve_app.api.schemas import AdapterPin, AdapterRequest
from serve_app.errors import NotFound
from serve_app.gateway.adapters import GatewayAdapters
from serve_app.gateway.services import Services

_NAME: Final = {"name": "The adapter's name."}
_CHANGE_ERRORS: Final = (400, 403, 404, 409, 413, 503)


class AdapterRoutes:
    """Handlers over the adapters of a Gateway. Changes are open to the tenants in `adapters.managers`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """All of them, described."""
        one, many = "/v1/adapters/{name}", "/v1/adapters"
        add = "Add an adapter; every replica serves it from then on, without a restart."
        pin, remove = "Pin an adapter, or no longer.", "Remove an adapter; open requests finish with it."
        found, listed, gone = answers(shapes.ADAPTER), answers(shapes.ADAPTERS), answers(shapes.ADAPTER_DELETED)
        errors = _CHANGE_ERRORS
        return [
            Operation("GET", many, "list_adapters", "List the adapters.", self.all, listed, (404,)),
            Operation("GET", one, "get_adapter", "An adapter.", self.one, found, (404,), parameters=_NAME),
            Operation("POST", many, "add_adapter", add, self.add, found, errors, AdapterRequest),
            Operation("PATCH", one, "pin_adapter", pin, self.pin, found, errors, AdapterPin, _NAME),
            Operation("DELETE", one, "remove_adapter", remove, self.remove, gone, errors, parameters=_NAME),
        ]

    async def all(self, request: Request) -> Response:
        """Every adapter, with the models that serve it and the replicas that hold it."""
        return json_response({"object": "list", "data": await self._adapters().all()})

    async def one(self, request: Request) -> Response:
        """One of them."""
        return json_response(await self._adapters().get(request.path_params["name"]))

    async def add(self, request: Request) -> Response:
        """Add an adapter from a folder or the hub."""
        adapters = self._changeable(request)
        given = check(AdapterRequest, await self._body(request))
        return json_response(await adapters.add(given.model_dump()))

    async def pin(self, request: Request) -> Response:
        """Pin or unpin an adapter."""
        adapters = self._changeable(request)
        given = check(AdapterPin, await self._body(request))
        return json_response(await adapters.pin(request.path_params["name"], given.pinned))

    async def remove(self, request: Request) -> Response:
        """Remove an adapter."""
        name = request.path_params["name"]
        await self._changeable(request).remove(name)
        return json_response({"id": name, "object": "adapter", "deleted": True})

    def _changeable(self, request: Request) -> GatewayAdapters:
        adapters, caller = self._adapters(), request.scope[CALLER]
        assert isinstance(caller, Caller)
        adapters.check_may_change(caller.tenant)
        return adapters

    def _adapters(self) -> GatewayAdapters:
        adapters = self._services.adapters
        if adapters is None:
            raise NotFound("This endpoint has no registry of adapters.", code="adapters_disabled")
        return adapters

    async def _body(self, request: Request) -> dict[str, Any]:
        body = await read_body(request.scope, request.receive, self._services.config.limits.body_bytes)
        return parse_object(body)
