"""One `x-request-id` for the caller, Ray Serve and the Gateway, where no front of ours cleans requests before Serve.

Serve adds to every response the id of the request, whatever it holds, or one of its own making.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.middleware import request_id

_HEADER = b"x-request-id"


class CleanRequestId:
    """Outside of Serve's own layer: an id that the Gateway would not take is removed, so that Serve makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request with at most one id."""
        if scope["type"] == "http" and any(name == _HEADER for name, _ in scope["headers"]):
            id_ = request_id(scope["headers"])
            headers = [h for h in scope["headers"] if h[0] != _HEADER]
            scope = {**scope, "headers": headers if id_ is None else [*headers, (_HEADER, id_.encode())]}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`."""
    return [Middleware(CleanRequestId)]


def without_request_id(app: ASGIApp) -> ASGIApp:
    """The app without its `x-request-id` header: Serve adds it, and two would be joined by clients."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [h for h in message["headers"] if h[0] != _HEADER]
            await send(message)

        await app(scope, receive, send_on)

    return wrapped
