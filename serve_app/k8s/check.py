"""All checks over a set of objects, and the rules for the set: references resolve, and nothing required is missing."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.config import Config
from serve_app.k8s.documents import Document
from serve_app.k8s.egress import egress_mistakes
from serve_app.k8s.entrances import ingress_mistakes, scrape_mistakes
from serve_app.k8s.pods import CONFIG_PATH
from serve_app.k8s.rules.delivery import delivery_mistakes
from serve_app.k8s.rules.pods import pod_mistakes, pods_of, repeated
from serve_app.k8s.rules.service import service_mistakes
from serve_app.k8s.schema import schema_mistakes
from serve_app.k8s.serve_config import config_of, serving_mistakes

_POD = re.compile(r"(.*?: RayService [^:]*: )(head group|worker group [^:]*)(: .*)", re.DOTALL)
_NEEDED = ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "PrometheusRule", "ServiceAccount", "ConfigMap")


def set_mistakes(documents: Sequence[Document], service: Document) -> Iterator[str]:
    """Sentences on the set around one RayService."""
    by_kind: dict[str, list[Document]] = {}
    for document in documents:
        by_kind.setdefault(document.kind, []).append(document)
    keys = [(d.kind, d.body["metadata"].get("namespace"), d.name) for d in documents]
    yield from (f"{kind} {name} is defined twice" for kind, _, name in repeated(keys))
    referred = list(_references(service, by_kind))
    named = [kind for kind in ("ConfigMap", "ServiceAccount") if any(f": {kind} " in said for said in referred)]
    missing = [kind for kind in _NEEDED if kind not in by_kind and kind not in named]
    yield from (f"no {kind} among the objects; render again" for kind in missing)
    yield from (f"{d}: Secrets are made in the cluster, never in manifests" for d in by_kind.get("Secret", []))
    yield from referred
    yield from _budgets(service, by_kind.get("PodDisruptionBudget", []))
    yield from _policies(service, by_kind.get("NetworkPolicy", []))
    yield from _ingresses(service, by_kind.get("Ingress", []))
    yield from _monitors(service, by_kind.get("PodMonitor", []))
    yield from _scrapes(service, by_kind.get("ScrapeConfig", []))
    yield from _config_map(service, by_kind.get("ConfigMap", []))
    if (config := _with_options(service, by_kind.get("ConfigMap", []))) is None:
        return
    yield from (f"{d}: {said}" for d in by_kind.get("Ingress", []) for said in ingress_mistakes(d.body, config))
    claims = by_kind.get("PersistentVolumeClaim", [])
    yield from (f"{service}: {said}" for said in delivery_mistakes(service.body, config, claims))
    yield from (f"{service}: {said}" for said in _egress(service, config, by_kind.get("NetworkPolicy", [])))


def _with_options(service: Document, maps: Sequence[Document]) -> Config | None:
    """The served config with the options of Kubernetes, which the ConfigMap alone has; None if either has a mistake."""
    config = config_of(service.body)
    written = [_written(document) for document in maps]
    options = [found.kubernetes for found in written if found is not None]
    return config.model_copy(update={"kubernetes": options[0]}) if config is not None and options else None


def _written(document: Document) -> Config | None:
    """The config in a ConfigMap; None without one, or if it is not valid."""
    text = document.body.get("data", {}).get(CONFIG_PATH.rpartition("/")[2])
    if text is None:
        return None
    try:
        return Config.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError):
        return None


def _egress(service: Document, config: Config, policies: Sequence[Document]) -> Iterator[str]:
    """What the policies on worker pods keep them from, once for all groups that lack the same."""
    found: dict[str, list[str]] = {}
    for where, _, _ in pods_of(service.body)[1:]:
        on = [p.body["spec"] for p in policies if where in _guarded(p, service)]
        bound = [spec for spec in on if "Egress" in spec.get("policyTypes", [])]
        rules = [rule for spec in bound for rule in spec.get("egress", [])]
        for said in egress_mistakes(config, rules if bound else None):
            found.setdefault(said, []).append(where.removeprefix("worker group "))
    yield from (f"worker group {', '.join(groups)}: {said}" for said, groups in found.items())


def _guarded(policy: Document, service: Document) -> set[str]:
    return {where for where, _ in _selected(policy.body["spec"].get("podSelector", {}), service.body)}


def labels_of(body: dict[str, Any]) -> list[dict[str, str]]:
    """The labels of every group's pods, with those that the operator adds."""
    found = []
    for where, _, template in pods_of(body):
        group = where.removeprefix("worker group ")
        operators = {"ray.io/node-type": "worker" if group != where else "head", "ray.io/is-ray-node": "yes"}
        operators["ray.io/group"] = group if group != where else "headgroup"
        found.append(template.get("metadata", {}).get("labels", {}) | operators)
    return found


def _references(service: Document, by_kind: dict[str, list[Document]]) -> Iterator[str]:
    maps = {d.name for d in by_kind.get("ConfigMap", [])}
    accounts = {d.name for d in by_kind.get("ServiceAccount", [])}
    for where, _, template in pods_of(service.body):
        spec = template["spec"]
        for volume in spec.get("volumes", []):
            name = volume.get("configMap", {}).get("name")
            if name is not None and name not in maps:
                yield f"{service}: {where}: ConfigMap {name} is not among the objects"
        account = spec.get("serviceAccountName")
        if account is not None and account not in accounts:
            yield f"{service}: {where}: ServiceAccount {account} is not among the objects"


def _selected(selector: dict[str, Any], body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Group and template of the pods that a selector matches."""
    required = selector.get("matchLabels", {}).items()
    pods = zip(pods_of(body), labels_of(body), strict=True)
    return [(where, pod) for (where, _, pod), labels in pods if required <= labels.items()]


def _port_names(pods: Iterable[dict[str, Any]]) -> set[str]:
    return {port["name"] for pod in pods for port in pod["spec"]["containers"][0].get("ports", [])}


def _budgets(service: Document, budgets: Sequence[Document]) -> Iterator[str]:
    groups = {g["groupName"]: g for g in service.body["spec"]["rayClusterConfig"].get("workerGroupSpecs", [])}
    guarded: set[str] = set()
    for budget in budgets:
        spec = budget.body["spec"]
        least = spec.get("minAvailable")
        selected = [where for where, _ in _selected(spec["selector"], service.body)]
        guarded |= set(selected)
        if type(least) is not int:
            yield f"{budget}: Ray's pods have no scale subresource, so only a whole-number minAvailable works on them"
            continue
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{budget}: unhealthyPodEvictionPolicy must be AlwaysAllow, or a broken pod blocks every drain"
        if not selected:
            yield f"{budget}: its selector matches no pod of {service.kind} {service.name}"
        there = sum(groups[w.removeprefix("worker group ")].get("minReplicas", 0) for w in selected if w[0] == "w")
        there += "head group" in selected
        if selected and least > there:
            yield f"{budget}: minAvailable {least} with {there} pods at least: nothing could be drained"
    for name, group in groups.items():
        if group.get("minReplicas", 0) and f"worker group {name}" not in guarded:
            yield f"{service}: worker group {name}: no PodDisruptionBudget selects its pods"
    if "head group" not in guarded and "gcsFaultToleranceOptions" not in service.body["spec"]["rayClusterConfig"]:
        yield f"{service}: head group: no PodDisruptionBudget, and without GCS fault tolerance all depends on the head"


def _policies(service: Document, policies: Sequence[Document]) -> Iterator[str]:
    pods = pods_of(service.body)
    names = _port_names(pod for _, _, pod in pods)
    covered: set[str] = set()
    for policy in policies:
        selected = _guarded(policy, service)
        if not selected:
            yield f"{policy}: its podSelector matches no pod of {service.kind} {service.name}"
        covered |= selected if "Ingress" in policy.body["spec"].get("policyTypes", []) else set()
        for rule in policy.body["spec"].get("ingress", []):
            unknown = sorted(p["port"] for p in rule.get("ports", []) if p.get("port") not in names)
            if unknown:
                yield f"{policy}: no pod has a port {', '.join(map(str, unknown))}"
    if covered != {where for where, _, _ in pods}:
        yield f"{service}: pods that no NetworkPolicy guards"


def _monitors(service: Document, monitors: Sequence[Document]) -> Iterator[str]:
    for monitor in monitors:
        spec = monitor.body["spec"]
        selected = [pod for _, pod in _selected(spec["selector"], service.body)]
        if not selected:
            yield f"{monitor}: its selector matches no pod of {service.kind} {service.name}"
        names = _port_names(selected)
        for endpoint in spec["podMetricsEndpoints"]:
            if selected and endpoint["port"] not in names:
                yield f"{monitor}: the pods have no port {endpoint['port']}"


def _scrapes(service: Document, scrapes: Sequence[Document]) -> Iterator[str]:
    """Prometheus reaches the Gateways, and has the key of /metrics from the Secret that they have it from."""
    for scrape in scrapes:
        yield from (f"{scrape}: {said}" for said in scrape_mistakes(scrape.body, service.body))
    config = config_of(service.body)
    if config is None or not config.server.keys or not (name := config.server.metrics_key_env):
        return
    _, _, template = pods_of(service.body)[-1]
    env = template["spec"]["containers"][0].get("env", [])
    references = [e.get("valueFrom", {}).get("secretKeyRef", {}) for e in env if e["name"] == name]
    for scrape in scrapes:
        given = scrape.body["spec"].get("authorization", {}).get("credentials", {})
        if references and (given.get("name"), given.get("key")) != (
            references[0].get("name"),
            references[0].get("key"),
        ):
            yield (
                f"{scrape}: /metrics needs the key of server.metrics_key_env: set authorization.credentials to "
                f"{{name: {references[0].get('name')}, key: {references[0].get('key')}}}"
            )


def _ingresses(service: Document, ingresses: Sequence[Document]) -> Iterator[str]:
    strategy = service.body["spec"].get("upgradeStrategy", {}).get("type")
    for ingress in ingresses:
        if strategy == "NewClusterWithIncrementalUpgrade":
            yield f"{ingress}: an incremental upgrade moves callers by the Gateway {service.name}-gateway: remove it"
        if not ingress.body["spec"].get("tls"):
            yield f"{ingress}: without tls the callers' keys travel in the clear"
        for rule in ingress.body["spec"].get("rules", []):
            for path in rule.get("http", {}).get("paths", []):
                backend = path["backend"].get("service", {})
                target = (backend.get("name"), backend.get("port", {}).get("number"))
                if target != (f"{service.name}-serve-svc", 8000):
                    yield f"{ingress}: backend {target[0]}:{target[1]} must be {service.name}-serve-svc:8000"


def _config_map(service: Document, maps: Sequence[Document]) -> Iterator[str]:
    name = CONFIG_PATH.rpartition("/")[2]
    config = config_of(service.body)
    for document in maps:
        if name not in document.body.get("data", {}) or config is None:
            continue
        written = _written(document)
        if written is None or written.model_copy(update={"kubernetes": config.kubernetes}) != config:
            yield f"{document}: {name} is not the config that {service.kind} {service.name} serves: render again"


def check_documents(documents: Sequence[Document]) -> list[str]:
    """Every mistake as a sentence. The rules are applied only if all schemas hold."""
    found = [said for document in documents for said in schema_mistakes(document)]
    if found:
        return found
    services = [document for document in documents if document.kind == "RayService"]
    if not services:
        return ["no RayService among the objects"]
    for service in services:
        for rules in (service_mistakes, pod_mistakes, serving_mistakes):
            found += [f"{service}: {said}" for said in rules(service.body)]
        found += list(set_mistakes(documents, service))
    return _merged(found)


def _merged(found: Iterable[str]) -> list[str]:
    """The sentences, each once: what several pods have in common is said of all of them."""
    places: dict[tuple[str, str], list[str]] = {}
    for said in found:
        parts = _POD.fullmatch(said)
        places.setdefault((parts[1], parts[3]) if parts else (said, ""), []).append(parts[2] if parts else "")
    return [before + ", ".join(dict.fromkeys(where)) + after for (before, after), where in places.items()]
