"""Objects against schemas, with unknown keys refused: the API server drops them in silence.

KubeRay's schema comes with the package, the core kinds with kubernetes-validate. The schemas of the Prometheus
operator's kinds are our own, as far as our manifests use them. Everything beyond schemas is in the rules.
"""

import difflib
import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from serve_app.errors import needs_extra
from serve_app.k8s.documents import Document

_KUBERNETES = "1.34"
"""The release whose core schemas count."""


def schema_mistakes(document: Document) -> list[str]:
    """What its schema refuses, as sentences; a kind without a schema here is a mistake as well."""
    version, kind = str(document.body.get("apiVersion", "")), document.kind
    if not version or not kind:
        return [f"{document}: apiVersion and kind are needed"]
    if (schema := _schemas().get(f"{version} {kind}")) is not None:
        return [f"{document}: {said}" for said in _against(schema, document.body)]
    if "." in version.partition("/")[0] and not version.partition("/")[0].endswith(".k8s.io"):
        return [f"{document}: no schema of {version} {kind} is known here; remove it, or correct apiVersion and kind"]
    return [f"{document}: {said}" for said in _core(document.body)]


@cache
def _schemas() -> dict[str, Any]:
    """The schemas that come with the package, by apiVersion and kind."""
    folder = resources.files("serve_app.k8s") / "schemas"
    found = {"ray.io/v1 RayService": json.loads((folder / "rayservice_v1.json").read_text("utf-8"))}
    found |= json.loads((folder / "monitoring.json").read_text("utf-8"))
    return {name: _closed(schema, top=True) for name, schema in found.items()}


def _closed(node: Any, top: bool = False) -> Any:
    """The schema with every object of known properties closed; what has a default is not required."""
    if isinstance(node, list):
        return [_closed(n) for n in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items() if key != "properties"}
    if "properties" in node:
        closed["properties"] = {name: _closed(value) for name, value in node["properties"].items()}
        if top:
            closed["properties"]["metadata"] = {"type": "object"}
        if "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
        # the API server fills defaults before it looks for what is missing
        filled = {name for name, value in node["properties"].items() if "default" in value}
        if "required" in node:
            closed["required"] = [name for name in node["required"] if name not in filled]
    return closed


def _against(schema: Any, body: Any) -> Iterator[str]:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(body):
        path = ".".join(str(part) for part in error.absolute_path) or "the object"
        if error.validator == "additionalProperties":
            known = sorted(error.schema["properties"])
            extra = sorted(set(error.instance) - set(known))
            near = difflib.get_close_matches(extra[0], known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{path}: unknown key {', '.join(extra)}; the API server would drop it in silence{hint}"
        else:
            yield f"{path}: {error.message if len(error.message) < 200 else error.message[:200] + '...'}"


def _core(body: dict[str, Any]) -> Iterator[str]:
    with needs_extra("checking manifests needs kubernetes-validate", "k8s"):
        import kubernetes_validate
    try:
        kubernetes_validate.validate(body, _KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as e:
        path = ".".join(str(part) for part in e.absolute_path) or "the object"
        yield f"{path}: {e.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"no schema of {body['apiVersion']} {body['kind']} in Kubernetes {_KUBERNETES}; correct them"
