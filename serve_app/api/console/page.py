"""The console's page and files, available without a key: they are the same for all and hold nothing of this endpoint.

Each is validated by its ETag at every load, so that a page never mixes the files of two versions.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import shapes
from serve_app.api.openapi import Content, Operation
from serve_app.console.assets import HEADERS, PAGE, assets
from serve_app.errors import NotFound

_FILES = PAGE + "/{file:path}"
_FILE = {"file": "A file of the page."}


class ConsoleRoutes:
    """Handlers over the files of the package."""

    def operations(self) -> list[Operation]:
        """Both, described."""
        page, file = "The console, as a page for browsers.", "A file of the console."
        html: dict[int, tuple[Content, ...]] = {200: (_text("text/html"),)}
        files = {200: tuple(_text(kind) for kind in ("text/javascript", "text/css", "image/svg+xml"))}
        return [
            Operation("GET", PAGE, "console", page, self.file, html, open=True),
            Operation("GET", _FILES, "console_file", file, self.file, files, (404,), parameters=_FILE, open=True),
        ]

    async def file(self, request: Request) -> Response:
        """One file, or 304 for a browser that holds it."""
        name = request.path_params.get("file")
        asset = assets().get(PAGE if name is None else f"{PAGE}/{name}")
        if asset is None:
            raise NotFound(f"The console has no file {str(name)[:100]!r}.", code="unknown_route")
        headers = {**HEADERS, "etag": asset.etag}
        if asset.is_held_by(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)


def open_paths() -> frozenset[str]:
    """The paths that need no key."""
    return frozenset(assets())


def _text(media_type: str) -> Content:
    schema: dict[str, Any] = shapes.TEXT
    return Content(schema, media_type=media_type)
