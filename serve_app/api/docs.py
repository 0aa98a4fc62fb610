"""/openapi.json and /docs: a page that needs nothing from the network but the document itself."""

from collections.abc import Sequence
from functools import cache
from importlib import resources

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import shapes
from serve_app.api.openapi import describe
from serve_app.api.operation import Content, Operation
from serve_app.config.tree import LimitsConfig

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def operations(described: Sequence[Operation], limits: LimitsConfig, *, keys: bool) -> list[Operation]:
    """The two routes; the document describes `described` and them."""
    ours: list[Operation] = []

    @cache
    def document() -> bytes:
        return orjson.dumps(describe([*described, *ours], limits, keys=keys))

    async def openapi(request: Request) -> Response:
        return Response(document(), media_type="application/json")

    async def page(request: Request) -> Response:
        html = resources.files("serve_app.api").joinpath("docs.html").read_text("utf-8")
        return Response(html, media_type="text/html", headers={"content-security-policy": _POLICY})

    html = (Content(shapes.TEXT, media_type="text/html"),)
    json = (Content({"type": "object"}),)
    ours += [
        Operation("GET", "/openapi.json", "openapi", "This document.", openapi, {200: json}, open=True),
        Operation("GET", "/docs", "docs", "This document as a page.", page, {200: html}, open=True),
    ]
    return ours
