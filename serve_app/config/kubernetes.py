"""What manifests need and serving does not: `jethro k8s` alone reads it, and no change of it rolls a replica."""

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from serve_app.config.base import Node
from serve_app.config.engines import web_address

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
ObjectName = Annotated[str, Field(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=253)]
"""The name of an object of Kubernetes."""
Namespace = Annotated[str, Field(pattern=rf"^{_LABEL}$", max_length=63)]
Labels = dict[str, str]


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("write an IP address, for instance 169.254.20.10") from None


def _absolute(path: str) -> str:
    if not path.startswith("/") or "/../" in f"{path}/":
        raise ValueError("write an absolute path inside the image, for instance /srv/models")
    return path.rstrip("/") or "/"


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("write the 64 hexadecimal digits that `jethro k8s pack` or `sha256sum` prints")
    return text


class ClaimConfig(Node):
    """A volume claim that all worker pods mount."""

    claim: ObjectName = Field(description="Name of the PersistentVolumeClaim.")
    size_gib: PositiveInt | None = Field(None, description="Size of the claim to make; null: it exists already.")
    storage_class: ObjectName | None = Field(
        None, description="Of the claim to make; it must offer ReadWriteMany. null: the cluster's default."
    )


class WeightsConfig(ClaimConfig):
    """Models' weights, mounted at /var/lib/jethro/models (HF_HOME)."""

    read_only: bool = Field(False, description="Nothing is downloaded: what the pools name is on the claim already.")


class ArtefactsConfig(Node):
    """Routers, chains and cascade routers of your own, as `jethro k8s pack` packs them: by URL, or on a claim."""

    url: Annotated[str, AfterValidator(web_address)] | None = Field(
        None, description="Where the archive is; a pod loads it before it starts."
    )
    sha256: Annotated[str, AfterValidator(_digest)] | None = Field(None, description="Of the archive.")
    claim: ObjectName | None = Field(None, description="An existing claim that holds the unpacked archive.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.url is None) == (self.claim is None):
            raise ValueError("give either url (with sha256) or claim")
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("url and sha256 belong together: give both; `jethro k8s pack` prints the sha256")
        return self


class IngressConfig(Node):
    """HTTPS from outside; of use with the component ingress."""

    host: ObjectName = Field(description="Name that callers use, as in the certificate.")
    class_name: ObjectName = Field("nginx", description="The ingress class.")
    tls_secret: ObjectName = Field("jethro-tls", description="Secret of the certificate.")
    controller_namespace: Namespace = Field("ingress-nginx", description="Namespace of the ingress controller's pods.")


class PrometheusConfig(Node):
    """The Prometheus whose operator takes the monitors and alerts."""

    release: ObjectName = Field("prometheus", description="Helm release, by whose label it selects them.")
    namespace: Namespace = Field("monitoring", description="Namespace of its pods, which may scrape ours.")


class KubernetesConfig(Node):
    """Options of manifests."""

    namespace: Namespace = Field("default", description="Namespace of all objects.")
    image_pull_secrets: tuple[ObjectName, ...] = Field((), description="Secrets of a private image registry.")
    extras: tuple[Literal["transformers", "encoders", "vllm"], ...] = Field(
        (), description="Of the image, beyond what the pools and the routers on the rendering machine need."
    )
    image_paths: tuple[Annotated[str, AfterValidator(_absolute)], ...] = Field(
        (), description="Folders of your own image that paths of this config may be in."
    )
    artefacts: ArtefactsConfig | None = Field(None, description="How your own routers and chains reach the pods.")
    weights: WeightsConfig | None = Field(None, description="A claim for weights; null: each pod downloads its own.")
    state: ClaimConfig | None = Field(
        None, description="A claim for decision logs, streams and registered routers; null: lost with the pod."
    )
    accelerators: dict[str, Labels] = Field(
        default_factory=dict, description="Labels of the nodes with an accelerator_type, if cluster.nodes states none."
    )
    ingress: IngressConfig | None = Field(None, description="Of the component ingress.")
    prometheus: PrometheusConfig = PrometheusConfig()
    collector: Annotated[str, AfterValidator(web_address)] | None = Field(
        None, description="The OpenTelemetry collector that traces go to, such as http://otel.monitoring.svc:4318."
    )
    redis_host: ObjectName = Field(
        "redis.databases.svc.cluster.local", description="Overlay ha: the Redis that keeps the head's state."
    )
    node_local_dns: Annotated[str, AfterValidator(_address)] | None = Field(
        None, description="Address of NodeLocal DNSCache, often 169.254.20.10; null: there is none."
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        claims = [c.claim for c in (self.weights, self.state, self.artefacts) if c is not None and c.claim]
        if len(set(claims)) < len(claims):
            raise ValueError("weights, state and artefacts need a claim each: give them different names")
        if bare := [name for name, labels in self.accelerators.items() if not labels]:
            raise ValueError(f"accelerators.{bare[0]}: give the labels of its nodes")
        return self
