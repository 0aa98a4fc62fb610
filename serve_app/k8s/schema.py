"""Objects against schemas, with unknown keys refused: the API server drops them in silence.

KubeRay's schema comes with the package, the core kinds with kubernetes-validate. The Prometheus operator's kinds are
models of our own, as far as our manifests use them. Everything beyond schemas is in the rules.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from serve_app.config.base import Node
from serve_app.config.validation import sentence
from serve_app.errors import missing_extra
from serve_app.k8s.documents import Document

Duration = Annotated[str, Field(pattern=r"^([0-9]+(ms|s|m|h|d|w|y))+$")]


class Relabeling(Node):
    """One relabelling step."""

    action: Literal["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"] = "replace"
    sourceLabels: tuple[str, ...] = ()
    targetLabel: str | None = None
    regex: str | None = None
    replacement: str | None = None


class Selector(Node):
    """Labels that must all be there."""

    matchLabels: dict[str, str] = Field(min_length=1)


class Namespaces(Node):
    """Where pods are looked for; default: the monitor's own namespace."""

    any: bool = False
    matchNames: tuple[str, ...] = ()


class PodEndpoint(Node):
    """A named port of the pods."""

    port: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,15}$")]
    path: str = "/metrics"
    interval: Duration | None = None
    scrapeTimeout: Duration | None = None
    relabelings: tuple[Relabeling, ...] = ()


class PodMonitorSpec(Node):
    """Which pods, and which of their ports."""

    jobLabel: str | None = None
    selector: Selector
    namespaceSelector: Namespaces = Namespaces()
    podMetricsEndpoints: tuple[PodEndpoint, ...] = Field(min_length=1)


class PodMonitor(Node):
    """monitoring.coreos.com/v1 PodMonitor."""

    spec: PodMonitorSpec


class SecretKey(Node):
    """A key of a Secret."""

    name: str
    key: str


class Authorization(Node):
    """The header of a scrape."""

    type: str = "Bearer"
    credentials: SecretKey


class StaticTargets(Node):
    """Addresses."""

    targets: tuple[Annotated[str, Field(pattern=r"^[a-z0-9.-]+:\d+$")], ...] = Field(min_length=1)
    labels: dict[str, str] = Field(default_factory=dict)


class ScrapeConfigSpec(Node):
    """A job of fixed targets."""

    jobName: str
    metricsPath: str = "/metrics"
    scrapeInterval: Duration | None = None
    scrapeTimeout: Duration | None = None
    staticConfigs: tuple[StaticTargets, ...] = Field(min_length=1)
    authorization: Authorization | None = None


class ScrapeConfig(Node):
    """monitoring.coreos.com/v1alpha1 ScrapeConfig."""

    spec: ScrapeConfigSpec


class Alert(Node):
    """An alerting rule."""

    alert: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]+$")]
    expr: Annotated[str, Field(min_length=1)]
    for_: Duration = Field("0s", alias="for")
    labels: dict[Literal["severity"], Literal["critical", "warning", "info"]]
    annotations: dict[Literal["summary", "description", "runbook_url"], str] = Field(min_length=1)


class RuleGroup(Node):
    """Rules that are evaluated one after the other."""

    name: str
    interval: Duration | None = None
    rules: tuple[Alert, ...] = Field(min_length=1)


class PrometheusRuleSpec(Node):
    """Groups of rules."""

    groups: tuple[RuleGroup, ...] = Field(min_length=1)


class PrometheusRule(Node):
    """monitoring.coreos.com/v1 PrometheusRule."""

    spec: PrometheusRuleSpec


MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("monitoring.coreos.com/v1alpha1", "ScrapeConfig"): ScrapeConfig,
}


_KUBERNETES = "1.34"
"""The release whose core schemas count."""


def schema_mistakes(document: Document) -> list[str]:
    """What its schema refuses, as sentences; a kind without a schema here is a mistake as well."""
    version, kind = str(document.body.get("apiVersion", "")), document.kind
    if not version or not kind:
        return [f"{document}: apiVersion and kind are needed"]
    if (version, kind) == ("ray.io/v1", "RayService"):
        return [f"{document}: {said}" for said in _against(_ray_service(), document.body)]
    if (version, kind) in MODELS:
        return _monitoring(document, (version, kind))
    if "." in version.partition("/")[0] and not version.partition("/")[0].endswith(".k8s.io"):
        return [f"{document}: no schema of {version} {kind} is known here; remove it, or correct apiVersion and kind"]
    return [f"{document}: {said}" for said in _core(document.body)]


@cache
def _ray_service() -> Any:
    text = (resources.files("serve_app.k8s") / "schemas" / "rayservice_v1.json").read_text("utf-8")
    return _closed(json.loads(text), top=True)


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
    try:
        from jsonschema import Draft202012Validator
    except ImportError as e:
        raise missing_extra("checking manifests needs jsonschema", "k8s") from e
    for error in Draft202012Validator(schema).iter_errors(body):
        path = ".".join(str(part) for part in error.absolute_path) or "the object"
        if error.validator == "additionalProperties":
            extra = sorted(set(error.instance) - set(error.schema["properties"]))
            yield f"{path}: unknown key {', '.join(extra)}; the API server would drop it in silence"
        else:
            yield f"{path}: {error.message if len(error.message) < 200 else error.message[:200] + '...'}"


def _core(body: dict[str, Any]) -> Iterator[str]:
    try:
        import kubernetes_validate
    except ImportError as e:
        raise missing_extra("checking manifests needs kubernetes-validate", "k8s") from e
    try:
        kubernetes_validate.validate(body, _KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as e:
        path = ".".join(str(part) for part in e.absolute_path) or "the object"
        yield f"{path}: {e.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"no schema of {body['apiVersion']} {body['kind']} in Kubernetes {_KUBERNETES}; correct them"


def _monitoring(document: Document, which: tuple[str, str]) -> list[str]:
    body = {key: value for key, value in document.body.items() if key not in ("apiVersion", "kind", "metadata")}
    try:
        MODELS[which].model_validate(body)
    except ValidationError as e:
        return [sentence(str(document), err, MODELS[which]) for err in e.errors()]
    return []
