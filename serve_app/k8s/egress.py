"""Network policies from the config's URLs: what worker pods may reach, and whether the policies of a set allow it.

A name of the cluster is reached by its namespace and on any port: a policy's ports are those of the pods behind a
Service, which a URL does not say. Every other name is reached by its port on any address, but for a cloud's metadata
service; an address by itself.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from serve_app.config import Config
from serve_app.config.engines import OpenAISettings
from serve_app.errors import ConfigError

METADATA: Final = {"0.0.0.0/0": ["169.254.0.0/16"], "::/0": ["fd00:ec2::254/128", "fe80::/10"]}
"""Any address, less those at which a cloud answers with a node's credentials."""
_NAMESPACE: Final = "kubernetes.io/metadata.name"
_PORTS: Final = {"http": 80, "https": 443}
_DNS: Final = 53


@dataclass(frozen=True, slots=True)
class Destination:
    """What a URL leads to: a namespace of the cluster, an address, or any address (neither)."""

    key: str
    url: str
    port: int
    namespace: str | None = None
    address: str | None = None

    @property
    def networks(self) -> list[str]:
        """Networks that hold it; of any address both families."""
        if self.address is None:
            return [] if self.namespace else list(METADATA)
        return [f"{self.address}/{ipaddress.ip_address(self.address).max_prefixlen}"]


def destinations(config: Config) -> list[Destination]:
    """Where worker pods connect to by the config's URLs. Raises ConfigError for a URL that means another host there."""
    found = []
    for name, pool in config.pools.items():
        engine, key = pool.engine, f"pools.{name}.engine"
        if isinstance(engine, OpenAISettings):
            # what goes by a proxy is resolved and connected to by it
            urls = [(f"{key}.proxy", engine.proxy)] if engine.proxy else [(f"{key}.urls", url) for url in engine.urls]
            found += [_destination(where, url, config.kubernetes.namespace) for where, url in urls]
    if config.log.traces.enabled and (collector := config.kubernetes.collector):
        found.append(_destination("kubernetes.collector", collector, config.kubernetes.namespace))
    if (artefacts := config.kubernetes.artefacts) and artefacts.url:
        found.append(_destination("kubernetes.artefacts.url", artefacts.url, config.kubernetes.namespace))
    return found


def _destination(key: str, url: str, namespace: str) -> Destination:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host in ("localhost", "localhost.") or (address is not None and (address.is_loopback or address.is_unspecified)):
        raise ConfigError(
            f"{key}: {url}: in a pod {host} is the pod itself: write the address or name by which other machines reach "
            "the server; for a Service of the cluster SERVICE.NAMESPACE.svc"
        )
    if address is not None:
        return Destination(key, url, port, address=str(address))
    labels = host.rstrip(".").split(".")
    if host.endswith("."):
        own = labels[2:3] == ["svc"]
    else:
        own = len(labels) == 1 or labels[2:3] == ["svc"]
        if len(labels) == 2 and parts.scheme == "http":
            raise ConfigError(
                f"{key}: {url}: {host} may be a Service or a name outside the cluster, and they need different network "
                f"policies: write {host}.svc for the Service {labels[0]} of namespace {labels[1]}, or {host}. (with "
                "the dot at the end) for the name outside"
            )
    return Destination(key, url, port, namespace=(namespace if len(labels) == 1 else labels[1]) if own else None)


def policies(config: Config) -> list[dict[str, Any]]:
    """What the base's policies do not open already."""
    rules: list[dict[str, Any]] = []
    for target in destinations(config):
        # the base opens port 443 of any address: hubs, most upstreams
        anywhere = target.namespace is None and target.address is None
        if (rule := _rule(target)) not in rules and not (anywhere and target.port == 443):
            rules.append(rule)
    found = [_policy("jethro-upstreams", {"ray.io/node-type": "worker"}, rules)] if rules else []
    if (dns := config.kubernetes.node_local_dns) is not None:
        ports = [{"port": _DNS, "protocol": protocol} for protocol in ("UDP", "TCP")]
        (network,) = Destination("", "", _DNS, address=dns).networks
        found.append(_policy("jethro-dns", {}, [{"to": [{"ipBlock": {"cidr": network}}], "ports": ports}]))
    return found


def _policy(name: str, more: dict[str, str], rules: list[dict[str, Any]]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "jethro"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podSelector": {"matchLabels": labels | more}, "policyTypes": ["Egress"], "egress": rules},
    }


def _rule(target: Destination) -> dict[str, Any]:
    if target.namespace is not None:
        return {"to": [{"namespaceSelector": {"matchLabels": {_NAMESPACE: target.namespace}}}]}
    blocks = [{"cidr": network, **_except(network)} for network in target.networks]
    return {
        "to": [{"ipBlock": block} for block in blocks],
        "ports": [{"port": target.port, "protocol": "TCP"}],
    }


def _except(network: str) -> dict[str, list[str]]:
    return {"except": METADATA[network]} if network in METADATA else {}


def egress_mistakes(config: Config, rules: Sequence[Mapping[str, Any]] | None) -> Iterator[str]:
    """Sentences on what the egress rules of a worker pod keep from it; None: no policy restricts the pod.

    `config` has the options of Kubernetes. A URL that means another host in a pod is a mistake without any policy.
    """
    try:
        found = destinations(config)
    except ConfigError as e:
        yield str(e)
        return
    if rules is None:
        return
    for target in found:
        if not any(_reaches(rule, target) and _passes(rule, target) for rule in rules):
            yield f"no NetworkPolicy lets pods reach {target.url} of {target.key}: render again, or add an egress rule"
    for protocol in ("UDP", "TCP"):
        cluster = Destination("", "", _DNS, namespace="kube-system")
        if not any(_reaches(rule, cluster) and _opens(rule, _DNS, protocol) for rule in rules):
            yield f"no NetworkPolicy lets pods reach DNS in kube-system, {protocol} port {_DNS}: no name is resolved"
        address = config.kubernetes.node_local_dns
        local = Destination("", "", _DNS, address=address)
        if address and not any(_reaches(rule, local) and _opens(rule, _DNS, protocol) for rule in rules):
            yield (
                f"no NetworkPolicy lets pods reach NodeLocal DNSCache at {address}, {protocol} port {_DNS} "
                "(kubernetes.node_local_dns): render again"
            )


def _passes(rule: Mapping[str, Any], target: Destination) -> bool:
    if target.namespace is None:
        return _opens(rule, target.port, "TCP")
    # the port of a pod behind a Service is not known from the URL; that of DNS it is not
    ports = rule.get("ports")
    return not ports or any(p.get("port") != _DNS and p.get("protocol", "TCP") == "TCP" for p in ports)


def _opens(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    if not ports:
        return True
    return any(
        p.get("protocol", "TCP") == protocol
        and (p.get("port") in (None, port) or int(p["port"]) <= port <= int(p.get("endPort", p["port"])))
        for p in ports
        if not isinstance(p.get("port"), str)
    )


def _reaches(rule: Mapping[str, Any], target: Destination) -> bool:
    peers = rule.get("to")
    if not peers:
        return True
    if target.namespace is not None:
        return any(_selects(peer, target.namespace) for peer in peers)
    blocks = [peer["ipBlock"] for peer in peers if "ipBlock" in peer]
    # a name outside has an IPv4 address at least
    (network, *_) = target.networks
    return any(_holds(block, network) for block in blocks)


def _selects(peer: Mapping[str, Any], namespace: str) -> bool:
    selector = peer.get("namespaceSelector")
    if selector is None:
        return False
    required = selector.get("matchLabels", {})
    return not required or required == {_NAMESPACE: namespace}


def _holds(block: Mapping[str, Any], network: str) -> bool:
    inner, allowed = ipaddress.ip_network(network), ipaddress.ip_network(block["cidr"], strict=False)
    if inner.version != allowed.version or not inner.subnet_of(allowed):  # type: ignore[arg-type]
        return False
    cut = [ipaddress.ip_network(cidr, strict=False) for cidr in block.get("except", [])]
    return not any(inner.subnet_of(c) for c in cut)  # type: ignore[arg-type]
