"""What KubeRay 1.7 asks of a RayService beyond its schema, and what production asks beyond KubeRay.

The rules take bodies that have passed the schema.
"""

import re
from collections.abc import Iterator
from typing import Any

from serve_app.k8s.rules.pods import repeated

RAY_VERSION = re.compile(r"^2\.60\.\d+$")
_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
_LONGEST_NAME = 47
_LOGICAL = ("num-cpus", "num-gpus", "memory", "resources")


def service_mistakes(body: dict[str, Any]) -> Iterator[str]:
    """Sentences on the service, its cluster and its groups, without the pods."""
    spec = body["spec"]
    cluster = spec["rayClusterConfig"]
    yield from _service(body["metadata"], spec)
    yield from _upgrade(spec.get("upgradeStrategy", {}), cluster)
    yield from _cluster(cluster)
    yield from _fault_tolerance(body["metadata"], cluster)
    yield from _head(spec, cluster["headGroupSpec"])
    yield from _groups(cluster)


def _service(metadata: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    name = str(metadata.get("name", ""))
    if len(name) > _LONGEST_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"metadata.name {name!r}: at most {_LONGEST_NAME} of a-z, 0-9 and -, beginning with a letter"
    for key in ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold"):
        if key in spec:
            yield f"spec.{key}: deprecated and ignored; remove it"
    for key in ("suspend", "managedBy"):
        if spec.get(key):
            yield f"spec.{key}: not for a service that is to answer; remove it"


def _upgrade(strategy: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    kind, where = strategy.get("type", "NewCluster"), "spec.upgradeStrategy"
    if kind not in _UPGRADES:
        yield f"{where}.type {kind!r}: choose one of {', '.join(_UPGRADES)}"
    options = strategy.get("clusterUpgradeOptions")
    if kind != "NewClusterWithIncrementalUpgrade":
        if options is not None:
            yield f"{where}.clusterUpgradeOptions: only an incremental upgrade has them; remove them, or change type"
        return
    if options is None:
        yield f"{where}.clusterUpgradeOptions: missing; an incremental upgrade needs them"
        return
    surge, step = options.get("maxSurgePercent", 100), options["stepSizePercent"]
    if not 0 <= step <= surge <= 100:
        yield f"{where}.clusterUpgradeOptions: stepSizePercent {step} <= maxSurgePercent {surge} <= 100 must hold"
    if options["intervalSeconds"] <= 0:
        yield f"{where}.clusterUpgradeOptions.intervalSeconds {options['intervalSeconds']}: must be above 0"
    if not cluster.get("enableInTreeAutoscaling"):
        yield "spec.rayClusterConfig.enableInTreeAutoscaling: an incremental upgrade needs it; set true"


def _cluster(cluster: dict[str, Any]) -> Iterator[str]:
    where = "spec.rayClusterConfig"
    if not RAY_VERSION.match(str(cluster.get("rayVersion", ""))):
        yield f"{where}.rayVersion {cluster.get('rayVersion')!r}: must be that of the image, 2.60.x"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield f"{where}.authOptions.mode: must be token, written out; otherwise Ray's ports answer anybody"
    if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
        yield f"{where}.authOptions.enableK8sTokenAuth: refused for a RayService; remove it"
    for key in ("networkPolicy", "tlsOptions", "historyServerOptions"):
        if key in cluster:
            yield f"{where}.{key}: alpha and gated off in KubeRay 1.7; remove it"
    if "upgradeStrategy" in cluster:
        yield f"{where}.upgradeStrategy: refused under a RayService; use spec.upgradeStrategy"
    if cluster.get("suspend"):
        yield f"{where}.suspend: refused with a running service; remove it"
    if cluster.get("autoscalerOptions") is not None and not cluster.get("enableInTreeAutoscaling"):
        yield f"{where}.autoscalerOptions: without enableInTreeAutoscaling: true nothing reads them"


def _fault_tolerance(metadata: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    where = "spec.rayClusterConfig.gcsFaultToleranceOptions"
    options = cluster.get("gcsFaultToleranceOptions")
    old = "ray.io/ft-enabled"
    if options is None:
        if old in metadata.get("annotations", {}):
            yield f"annotation {old}: the old way; use {where}"
        return
    if options.get("backend", "redis") != "redis":
        yield f"{where}.backend {options['backend']!r}: alpha and gated off in KubeRay 1.7; use redis"
    if not options.get("redisAddress"):
        yield f"{where}.redisAddress: missing"
    if "value" in options.get("redisPassword", {}):
        yield f"{where}.redisPassword.value: a secret in a manifest; refer to a Secret with valueFrom.secretKeyRef"
    if "externalStorageNamespace" in options:
        yield f"{where}.externalStorageNamespace: old and new cluster would share their state; remove it"
    head = cluster["headGroupSpec"]
    names = {e["name"] for c in head["template"]["spec"]["containers"] for e in c.get("env", [])}
    mixed = sorted(names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"})
    mixed += ["rayStartParams.redis-password"] if "redis-password" in head.get("rayStartParams", {}) else []
    mixed += [f"annotation {old}"] if old in metadata.get("annotations", {}) else []
    if mixed:
        yield f"{where}: refused together with {', '.join(mixed)}; remove that"


def _head(spec: dict[str, Any], head: dict[str, Any]) -> Iterator[str]:
    where = "spec.rayClusterConfig.headGroupSpec"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield f'{where}.rayStartParams.num-cpus: must be "0", so that the head\'s loss costs no answer'
    if not spec.get("excludeHeadPodFromServeSvc"):
        yield "spec.excludeHeadPodFromServeSvc: must be true, since the head has no replicas"
    if "name" in head.get("headService", {}).get("metadata", {}):
        yield f"{where}.headService.metadata.name: refused by the operator (kuberay #2433); remove it"


def _groups(cluster: dict[str, Any]) -> Iterator[str]:
    groups = cluster.get("workerGroupSpecs", [])
    if not groups:
        yield "spec.rayClusterConfig.workerGroupSpecs: none; the head takes no replicas"
    names = [group["groupName"] for group in groups]
    yield from (f"worker group {name}: the name is given twice" for name in repeated(names))
    for group in groups:
        where = f"worker group {group['groupName']}"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not 0 <= least <= group.get("replicas", least) <= most or most == 0:
            yield f"{where}: minReplicas {least} <= replicas {group.get('replicas', least)} <= maxReplicas {most}"
        if group.get("suspend"):
            yield f"{where}.suspend: refused with the autoscaler; remove it"
        parameters = group.get("rayStartParams", {})
        if "labels" in parameters:
            yield f"{where}.rayStartParams.labels: refused by the operator; use labels of the group"
        mixed = sorted(set(parameters) & set(_LOGICAL))
        if group.get("resources") and mixed:
            yield f"{where}: resources and rayStartParams.{', '.join(mixed)} are refused together; keep one"
