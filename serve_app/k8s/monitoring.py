"""The Prometheus operator's kinds as far as our manifests use them; other keys are refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from serve_app.config.base import Node

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
    """A Secret's key by reference."""

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
