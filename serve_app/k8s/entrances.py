"""By what callers and Prometheus enter: the Service or Gateway that the operator makes, and an ingress."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from serve_app.config import Config

GATEWAY_CLASS: Final = "istio"
"""As in the component high-availability."""
_TIMEOUTS: Final = ("proxy-read-timeout", "proxy-send-timeout")
_NGINX: Final = "nginx.ingress.kubernetes.io"
_MARGIN_S: Final = 20
"""Above the deadline of a request, whose error says more than the ingress'."""
_EXAMPLE = re.compile(r"(^|\.)example\.(com|net|org)$")
_SIZE = re.compile(r"^(\d+)([kmg]?)$")


def scrape_target(service: str, namespace: str, gateway_class: str | None) -> str:
    """Address of the Gateways' figures, seen from any namespace; with a `gateway_class` of an incremental upgrade.

    There the operator makes a Service for each cluster and a Gateway in front; the Gateway API's controller names the
    Gateway's own Service after its class.
    """
    if gateway_class is not None:
        return f"{service}-gateway-{gateway_class}.{namespace}.svc:80"
    return f"{service}-serve-svc.{namespace}.svc:8000"


def ingress_values(config: Config) -> dict[str, Any]:
    """Values of the component's Ingress by JSON pointer. The config must have its options."""
    options = config.kubernetes.ingress
    assert options is not None
    annotation = "/metadata/annotations/" + _NGINX.replace("/", "~1") + "~1"
    seconds = str(int(config.limits.request_timeout_s) + _MARGIN_S)
    return {
        **{annotation + name: seconds for name in _TIMEOUTS},
        # nginx counts in kibibytes
        f"{annotation}proxy-body-size": f"{-(-config.limits.body_bytes // 1024)}k",
        "/spec/ingressClassName": options.class_name,
        "/spec/tls": [{"hosts": [options.host], "secretName": options.tls_secret}],
        "/spec/rules/0/host": options.host,
    }


def ingress_mistakes(body: Mapping[str, Any], config: Config) -> Iterator[str]:
    """Sentences on an Ingress against the config: hosts, and limits below ours."""
    encrypted = {host for entry in body["spec"].get("tls", []) for host in entry.get("hosts", [])}
    for rule in body["spec"].get("rules", []):
        host = str(rule.get("host", ""))
        if _EXAMPLE.search(host):
            yield f"host {host} is an example: write yours in kubernetes.ingress.host and render again"
        elif encrypted and host not in encrypted:
            yield f"host {host or '*'} is not among the hosts of tls: callers' keys travel in the clear"
    annotations = body["metadata"].get("annotations", {})
    for name in _TIMEOUTS:
        value = annotations.get(f"{_NGINX}/{name}")
        if value is not None and value.isdigit() and int(value) < config.limits.request_timeout_s:
            yield (
                f"annotation {name} {value} is below limits.request_timeout_s {config.limits.request_timeout_s:g}: "
                "the ingress cuts answers off; render again"
            )
    size = _SIZE.match(str(annotations.get(f"{_NGINX}/proxy-body-size", "")).lower())
    if size and 0 < int(size[1]) * 1024 ** " kmg".index(size[2] or " ") < config.limits.body_bytes:
        least = config.limits.body_bytes
        yield f"annotation proxy-body-size {size[0]} is below limits.body_bytes {least}: render again"


def scrape_mistakes(body: Mapping[str, Any], service: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on the targets of a ScrapeConfig against the RayService."""
    strategy = service["spec"].get("upgradeStrategy", {})
    options = strategy.get("clusterUpgradeOptions", {}) if "Incremental" in str(strategy.get("type")) else {}
    metadata = service["metadata"]
    namespace = metadata.get("namespace", "default")
    expected = scrape_target(metadata["name"], namespace, options.get("gatewayClassName"))
    for target in [t for entry in body["spec"]["staticConfigs"] for t in entry["targets"]]:
        if target != expected:
            yield (
                f"target {target}: Prometheus, in a namespace of its own, reaches the figures of namespace {namespace} "
                f"at {expected}: set kubernetes.namespace and render again"
            )
