"""One route with its description, so that what runs and what the OpenAPI document says cannot drift apart."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serve_app.api.messages import Part

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Content:
    """What a status without an error object carries: JSON schema, meaning and media type."""

    schema: dict[str, Any]
    description: str = "OK"
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """A method on a path, run by a handler or, on the hot path, by an ASGI app (any object that is not a function).

    `ok` maps statuses to what they carry, `errors` lists the statuses that carry the error object. `parameters`
    describes the path's parameters. `open`: no key is needed.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    name: str
    summary: str
    run: Handler | ASGIApp
    ok: dict[int, tuple[Content, ...]]
    errors: tuple[int, ...] = ()
    request: type[Part] | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    open: bool = False

    @property
    def public_path(self) -> str:
        """The path as OpenAPI writes it, without Starlette's convertors."""
        return self.path.replace(":path}", "}")

    def route(self) -> Route:
        """The Starlette route; GET answers HEAD as well."""
        return Route(self.path, self.run, methods=[self.method], name=self.name)
