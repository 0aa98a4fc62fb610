"""The HTTP API as one ASGI app over Services: routes, middleware, errors, description."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from serve_app.api import openapi as docs
from serve_app.api import shapes
from serve_app.api.adapters import AdapterRoutes
from serve_app.api.admin.operations import admin_operations
from serve_app.api.completions import CompletionHandler
from serve_app.api.console import page as console
from serve_app.api.console.live import LiveRoutes
from serve_app.api.decisions import DecisionRoutes
from serve_app.api.dialects.base import Speakers
from serve_app.api.dialects.fields import rules_of
from serve_app.api.dialects.messages.dialect import MESSAGES, MessagesDialect, messages_operations
from serve_app.api.dialects.messages.errors import MessagesErrors
from serve_app.api.dialects.openai import OpenAIDialect, OpenAIErrors
from serve_app.api.dialects.responses.dialect import RESPONSES, ResponsesDialect, ResponsesErrors
from serve_app.api.dialects.responses.keeping import Keeper
from serve_app.api.dialects.responses.operations import ResponsesRoutes
from serve_app.api.embeddings.dialect import PATH as EMBEDDINGS
from serve_app.api.embeddings.dialect import embedding_app, embedding_operation
from serve_app.api.middleware import GatewayMiddleware
from serve_app.api.openapi import Content, Operation
from serve_app.api.reply import INTERNAL, error_headers
from serve_app.api.routes import Routes
from serve_app.api.schemas import ChatRequest, CompletionRequest
from serve_app.api.streams import StreamRoutes
from serve_app.config.base import CorsConfig
from serve_app.errors import JethroError, MethodNotAllowed, NotFound, RequestError
from serve_app.gateway.services import Services
from serve_app.types import DECISION_FIELDS

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
_EXPOSED: Final = [
    *("x-request-id", "request-id", "retry-after", "server-timing", "openai-processing-ms"),
    *(f"x-jethro-{f.shown.header}" for f in DECISION_FIELDS if f.shown.header),
    *("x-jethro-cost-usd", "x-jethro-wasted-tokens", "x-jethro-wasted-usd"),
]
"""The headers that a page may read."""
_ERRORS: Final = (400, 403, 404, 413, 429, 500, 502, 503, 504)


def build_app(services: Services) -> Starlette:
    """The whole API. The caller starts and closes the services; the app does neither."""
    keeper, rules = Keeper(services.store, services.config.store), rules_of(services.config)
    hot: dict[str, ASGIApp] = {
        CHAT: CompletionHandler(services, OpenAIDialect("chat", services.config.limits, rules)),
        COMPLETIONS: CompletionHandler(services, OpenAIDialect("completions", services.config.limits, rules)),
        EMBEDDINGS: embedding_app(services),
        MESSAGES: CompletionHandler(services, MessagesDialect(services.config.limits)),
        RESPONSES: CompletionHandler(services, ResponsesDialect(services.config.limits, keeper)),
    }
    groups = (
        Routes(services),
        DecisionRoutes(services),
        StreamRoutes(services),
        AdapterRoutes(services),
        LiveRoutes(services),
    )
    server = services.config.server
    operations = [*_answering(hot), *ResponsesRoutes(keeper).operations(hot[RESPONSES])]
    operations += messages_operations(services, hot[MESSAGES])
    operations += [operation for group in groups for operation in group.operations()]
    operations += admin_operations(services)
    if server.expose_console:
        operations += console.ConsoleRoutes().operations()
    if server.expose_docs:
        operations += docs.operations(operations, services.config.limits, keys=bool(services.keys))
    open_paths = frozenset(o.path for o in operations if o.open)
    if server.expose_console:
        open_paths |= console.open_paths()
    speakers = Speakers(OpenAIErrors(), {MESSAGES: MessagesErrors(), RESPONSES: ResponsesErrors()})
    middleware = partial(
        GatewayMiddleware,
        services=services,
        hot=hot,
        open_paths=open_paths,
        speakers=speakers,
        routes=[o.path for o in operations],
    )
    return _Api([o.route() for o in operations], partial(_across_origins, middleware, server.cors), speakers)


def _across_origins(middleware: Callable[[ASGIApp], ASGIApp], cors: CorsConfig, app: ASGIApp) -> ASGIApp:
    """The whole stack, around which pages of the configured origins are answered; without any there is no such layer.

    A browser requests leave without a key, and must be answered before keys are checked.
    """
    wrapped = middleware(app)
    if not cors.origins:
        return wrapped
    return CORSMiddleware(
        wrapped,
        allow_origins=cors.origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        max_age=cors.max_age_s,
    )


class _Api(Starlette):
    """Starlette inside GatewayMiddleware, its error layer included, which would wrap every `send` otherwise."""

    def __init__(self, routes: Sequence[Route], middleware: Callable[[ASGIApp], ASGIApp], speakers: Speakers) -> None:
        refused = _Refused(speakers)
        handlers = {JethroError: refused.ours, HTTPException: refused.of_starlette, Exception: refused.internal}
        super().__init__(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
        self.router.redirect_slashes = False
        self._outermost = middleware

    def build_middleware_stack(self) -> ASGIApp:
        """GatewayMiddleware, then Starlette's own."""
        return self._outermost(super().build_middleware_stack())


def _answering(hot: dict[str, ASGIApp]) -> list[Operation]:
    stream = Content(shapes.EVENT_STREAM, media_type="text/event-stream")
    chat: dict[int, tuple[Content, ...]] = {200: (Content(shapes.CHAT_COMPLETION), stream)}
    text: dict[int, tuple[Content, ...]] = {200: (Content(shapes.COMPLETION), stream)}
    said, done = "Answer a conversation.", "Complete a prompt."
    return [
        Operation("POST", CHAT, "chat_completions", said, hot[CHAT], chat, _ERRORS, ChatRequest, placed=True),
        Operation(
            "POST", COMPLETIONS, "completions", done, hot[COMPLETIONS], text, _ERRORS, CompletionRequest, placed=True
        ),
        embedding_operation(hot[EMBEDDINGS], _ERRORS),
    ]


def _methods(request: Request) -> str:
    """Those of all routes of a path; Starlette names only those of the first."""
    routes = [r for r in request.app.routes if isinstance(r, Route) and r.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


class _Refused:
    """Errors of the routes other than the hot ones, in the shape of the path's API."""

    def __init__(self, speakers: Speakers) -> None:
        self._speakers = speakers

    async def internal(self, request: Request, error: Exception) -> Response:
        """Starlette raises the error again afterwards, and GatewayMiddleware logs it."""
        return self._response(request, JethroError(INTERNAL))

    async def ours(self, request: Request, error: JethroError) -> Response:
        """An error of ours."""
        return self._response(request, error)

    async def of_starlette(self, request: Request, error: HTTPException) -> Response:
        """Starlette's own refusals."""
        allow = dict(error.headers or {})
        if error.status_code == 405:
            allow["Allow"] = _methods(request)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=allow)
            wrong = MethodNotAllowed(f"{request.method[:20]} is not allowed here: use {allow['Allow']}.")
            return self._response(request, wrong, allow)
        if error.status_code == 404:
            unknown = NotFound(f"No route {request.url.path[:200]!r}.", code="unknown_route")
            return self._response(request, unknown, allow)
        return self._response(request, RequestError(str(error.detail)), allow)

    def _response(self, request: Request, error: JethroError, headers: dict[str, str] | None = None) -> Response:
        body = self._speakers.of(get_route_path(request.scope)).refusal(error)
        response = Response(body, error.status, headers, media_type="application/json")
        response.raw_headers.extend(error_headers(error, 1))
        return response
