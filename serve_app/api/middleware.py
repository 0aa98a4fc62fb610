"""The outermost layer, plain ASGI: request id, keys, the short way to the hot routes, and the last resort for errors.

Headers that begin with x-jethro- are ours alone: nothing here or below reads a caller's.
"""

import logging
from collections.abc import Mapping

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.caller import CALLER, Caller, Ids, Keys, request_id
from serve_app.api.reply import INTERNAL, Headers, send_error
from serve_app.errors import JethroError
from serve_app.gateway.services import Services

logger = logging.getLogger("jethro.api")


class Edge:
    """Wraps `app`. `hot` maps paths of POST routes to their ASGI apps; paths in `open_paths` need no key."""

    def __init__(
        self, app: ASGIApp, services: Services, *, hot: Mapping[str, ASGIApp], open_paths: frozenset[str]
    ) -> None:
        self._app = app
        self._recorder = services.recorder
        self._ids = Ids()
        self._keys = Keys(services.keys)
        self._hot = hot
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        path = get_route_path(scope)
        id_ = request_id(headers) or f"req-{self._ids.new()}"
        try:
            tenant = None if path in self._open else self._keys.tenant(headers)
        except JethroError as error:
            self._recorder.unauthorized()
            await send_error(send, error, [(b"x-request-id", id_.encode())])
            return
        scope[CALLER] = Caller(id_, tenant)
        if scope["method"] == "POST" and path in self._hot:
            await self._hot[path](scope, receive, send)
        else:
            await self._cold(scope, receive, send, id_)

    async def _cold(self, scope: Scope, receive: Receive, send: Send, id_: str) -> None:
        """The other routes; the id is added to their responses."""
        begun = False
        ours: Headers = [(b"x-request-id", id_.encode())]

        async def tagged(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", ()), *ours]}
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except Exception:
            logger.exception("request %s to %r failed", id_, scope["path"][:200])
            if not begun:
                await send_error(tagged, JethroError(INTERNAL), [])
