"""Writes the OpenAPI 3.1 document from the operations and the request models."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic.json_schema import models_json_schema

from serve_app import __version__
from serve_app.api.bounds import bound
from serve_app.api.operation import Content, Operation
from serve_app.config.tree import LimitsConfig

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


def describe(operations: Sequence[Operation], limits: LimitsConfig, *, keys: bool) -> dict[str, Any]:
    """The whole document. `keys`: the routes that are not open need a bearer key."""
    requests = sorted({o.request for o in operations if o.request is not None}, key=lambda m: m.__name__)
    _, schemas = models_json_schema([(m, "validation") for m in requests], by_alias=True, ref_template=_REF + "{model}")
    bound(schemas["$defs"], limits)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.public_path, {})[operation.method.lower()] = _operation(operation, keys)
    components: dict[str, Any] = {"schemas": {**schemas["$defs"], "Error": _ERROR}}
    if keys:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
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
    errors = operation.errors
    if keys and not operation.open:
        errors = (*errors, 401)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            **{str(status): _content(contents) for status, contents in operation.ok.items()},
            **{str(status): _error(status) for status in sorted(set(errors))},
        },
    }
    if operation.parameters:
        described["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": text,
                "schema": {"type": "string", "minLength": 1},
            }
            for name, text in operation.parameters.items()
        ]
    if operation.request is not None:
        schema = {"$ref": _REF + operation.request.__name__}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if keys and not operation.open:
        described["security"] = [{"bearer": []}]
    return described


def _content(contents: tuple[Content, ...]) -> dict[str, Any]:
    return {
        "description": contents[0].description,
        "headers": _HEADERS,
        "content": {c.media_type: {"schema": c.schema} for c in contents},
    }


def _error(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {**_HEADERS, **(_RETRY_AFTER if status in (429, 503) else {})},
        "content": {"application/json": {"schema": {"$ref": _REF + "Error"}}},
    }
