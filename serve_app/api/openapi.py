"""The OpenAPI 3.1 document, made from the operations (a route with its description) and the request models.

The operator's limits are written into the requests' schemas. /docs is a page that loads only this document.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any, Final, Literal

import orjson
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serve_app import __version__
from serve_app.api import shapes
from serve_app.api.dialects.messages import shapes as messages_shapes
from serve_app.api.query import PRIVACY_HEADER
from serve_app.api.schemas import Part
from serve_app.config.tree import LimitsConfig
from serve_app.placement.policy import STRICTEST

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a success status: JSON schema, meaning and media type."""

    schema: dict[str, Any]
    description: str = "OK"
    media_type: str = "application/json"


def answers(schema: dict[str, Any]) -> dict[int, tuple[Content, ...]]:
    """The one success of an operation: status 200 with JSON of this schema."""
    return {200: (Content(schema),)}


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A parameter of the query string; `schema` describes its text."""

    name: str
    description: str
    schema: dict[str, Any]
    required: bool = False

    def described(self) -> dict[str, Any]:
        """As OpenAPI writes it."""
        known = {"name": self.name, "in": "query", "required": self.required, "description": self.description}
        return {**known, "schema": self.schema}


@dataclass(frozen=True, slots=True)
class Operation:
    """A method on a path, run by a handler or, on the hot path, by an ASGI app (any object that is not a function).

    `ok` maps statuses to their content, `errors` lists the statuses with the error object. `parameters` describes the
    path's parameters, `query` those after it. `confirm` names a query parameter that has to be `true`. `open`: no key
    is needed. `placed`: the caller's privacy class is read. `admin`: the key is the operator's. `error`: the name of
    the error object's schema.
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
    confirm: str | None = None
    placed: bool = False
    query: tuple[QueryParameter, ...] = ()
    admin: bool = False
    error: Literal["Error", "MessagesError"] = "Error"

    @property
    def public_path(self) -> str:
        """The path as OpenAPI writes it, without Starlette's convertors."""
        return self.path.replace(":path}", "}")

    def route(self) -> Route:
        """The Starlette route; GET answers HEAD as well."""
        return Route(self.path, self.run, methods=[self.method], name=self.name)


def bound(schemas: dict[str, Any], limits: LimitsConfig) -> None:
    """Change `schemas`, the request models by name, in place. The checks themselves are in query.py."""
    for name in ("ChatRequest", "CompletionRequest"):
        properties = schemas[name]["properties"]
        for integer, most in _integers(name, limits).items():
            _member(properties[integer], "integer")["maximum"] = most
        stop = properties["stop"]
        _member(stop, "string")["maxLength"] = limits.stop_chars
        sequences = _member(stop, "array")
        sequences["maxItems"] = limits.stop
        sequences["items"]["maxLength"] = limits.stop_chars
    for given in schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"]:
        if given["type"] == "array" and given["items"]["type"] != "integer":
            given["maxItems"] = limits.prompts
    chat = schemas["ChatRequest"]["properties"]
    chat["messages"]["maxItems"] = limits.messages
    _member(chat["tools"], "array")["maxItems"] = limits.tools
    for name in ("MessagesRequest", "CountTokensRequest"):
        properties = schemas[name]["properties"]
        properties["messages"]["maxItems"] = limits.messages
        _member(properties["tools"], "array")["maxItems"] = limits.tools
    messages = schemas["MessagesRequest"]["properties"]
    sequences = _member(messages["stop_sequences"], "array")
    sequences["maxItems"] = limits.stop
    sequences["items"]["maxLength"] = limits.stop_chars
    if "ResponsesRequest" in schemas:
        responses = schemas["ResponsesRequest"]["properties"]
        for integer, most in {"max_output_tokens": limits.max_tokens, "top_logprobs": limits.top_logprobs}.items():
            _member(responses[integer], "integer")["maximum"] = most
        for name, most in {"input": limits.messages, "tools": limits.tools}.items():
            _member(responses[name], "array")["maxItems"] = most


def _integers(model: str, limits: LimitsConfig) -> dict[str, int]:
    both = {"n": limits.n, "max_tokens": limits.max_tokens}
    if model == "CompletionRequest":
        return {**both, "logprobs": limits.top_logprobs}
    return {**both, "max_completion_tokens": limits.max_tokens, "top_logprobs": limits.top_logprobs}


def _member(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The member of a union that is of one type."""
    found: dict[str, Any] = next(
        member for member in schema.get("anyOf") or schema["oneOf"] if member.get("type") == kind
    )
    return found


_REF = "#/components/schemas/"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_HEADERS = {"x-request-id": {"description": "The caller's, or a new one.", "schema": {"type": "string"}}}
_RETRY_AFTER = {"retry-after": {"description": "Seconds.", "schema": {"type": "string"}}}


_PRIVACY = {
    "name": PRIVACY_HEADER,
    "in": "header",
    "required": False,
    "description": "Which pools may see the request. It may tighten the class of the key, and loosen it where allowed.",
    "schema": {"enum": list(STRICTEST)},
}


def describe(operations: Sequence[Operation], limits: LimitsConfig, *, keys: bool) -> dict[str, Any]:
    """The whole document. `keys`: the routes that are not open need a bearer key."""
    requests = sorted({o.request for o in operations if o.request is not None}, key=lambda m: m.__name__)
    _, schemas = models_json_schema([(m, "validation") for m in requests], by_alias=True, ref_template=_REF + "{model}")
    bound(schemas["$defs"], limits)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.public_path, {})[operation.method.lower()] = _operation(operation, keys)
    errors = {"Error": _ERROR, "MessagesError": messages_shapes.ERROR}
    components: dict[str, Any] = {"schemas": {**schemas["$defs"], **errors}}
    schemes = {"bearer": keys, "admin": any(operation.admin for operation in operations)}
    if any(schemes.values()):
        used = [scheme for guard, needed in schemes.items() if needed for scheme in (guard, _PLAIN[guard])]
        components["securitySchemes"] = {scheme: _HEADER if scheme in _PLAIN.values() else _BEARER for scheme in used}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Jethro",
            "version": __version__,
            "description": "One OpenAI-compatible endpoint that answers each query with the model that suits it.",
        },
        "paths": paths,
        "components": components,
    }


def _operation(operation: Operation, keys: bool) -> dict[str, Any]:
    guarded = _guard(operation, keys)
    errors = (*operation.errors, *((401, 403) if operation.admin else (401,) if guarded else ()))
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            **{str(status): _content(contents) for status, contents in operation.ok.items()},
            **{str(status): _error(status, operation.error) for status in sorted(set(errors))},
        },
    }
    if operation.parameters:
        text_schema = {"type": "string", "minLength": 1}
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "description": text, "schema": text_schema}
            for name, text in operation.parameters.items()
        ]
    if operation.confirm is not None:
        confirmed = {"name": operation.confirm, "in": "query", "required": True, "schema": {"enum": ["true"]}}
        described.setdefault("parameters", []).append({**confirmed, "description": "Has to be `true`."})
    if operation.placed:
        described.setdefault("parameters", []).append(_PRIVACY)
    for parameter in operation.query:
        described.setdefault("parameters", []).append(parameter.described())
    if operation.request is not None:
        schema = {"$ref": _REF + operation.request.__name__}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if guarded is not None:
        described["security"] = [{guarded: []}, {_PLAIN[guarded]: []}]
    return described


_BEARER: Final = {"type": "http", "scheme": "bearer"}
_HEADER: Final = {"type": "apiKey", "in": "header", "name": "x-api-key"}
_PLAIN: Final = {"bearer": "api_key", "admin": "admin_api_key"}
"""By security scheme of a bearer key: that of the same key in a header of its own."""


def _guard(operation: Operation, keys: bool) -> str | None:
    """The security scheme of an operation; the operator's reads are open where callers need no keys."""
    if operation.admin:
        return "admin" if keys or operation.method != "GET" else None
    return "bearer" if keys and not operation.open else None


def _content(contents: tuple[Content, ...]) -> dict[str, Any]:
    content = {c.media_type: {"schema": c.schema} for c in contents}
    return {"description": contents[0].description, "headers": _HEADERS, "content": content}


def _error(status: int, schema: str) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {**_HEADERS, **(_RETRY_AFTER if status in (429, 503) else {})},
        "content": {"application/json": {"schema": {"$ref": _REF + schema}}},
    }


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
        html = resources.files("serve_app.api").joinpath("pages/docs.html").read_text("utf-8")
        return Response(html, media_type="text/html", headers={"content-security-policy": _POLICY})

    html = (Content(shapes.TEXT, media_type="text/html"),)
    json = (Content({"type": "object"}),)
    ours += [
        Operation("GET", "/openapi.json", "openapi", "This document.", openapi, {200: json}, open=True),
        Operation("GET", "/docs", "docs", "This document as a page.", page, {200: html}, open=True),
    ]
    return ours
