"""Worker pods: the environment of every Ray pod, the grace periods, and a worker group's template.

Pools to worker groups: which pods Ray may ask Kubernetes for. Pure arithmetic on the config.

Trouble: a Gateway that lands on a GPU pod keeps it alive (kuberay #4445), so what needs no GPU has a group of its own.
Trouble: a replica must fit one pod (kuberay #1090), so a GPU pod is cut to the replica that it is for.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from serve_app.config import Config
from serve_app.config.cluster import NodeConfig, ResourceDemand
from serve_app.config.engines import OpenAIEngine, VllmEngine
from serve_app.config.environment import SERVE_ENVIRONMENT
from serve_app.errors import ConfigError

_CPU_POD_CPUS = 2
_GIB_PER_CPU = 2.0
_GIB_PER_GPU = 16.0
"""Memory of a pod whose replicas do not say what they need."""
_RAY_GIB = 1.0
"""What Ray's own processes take in a worker pod."""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Pods of one shape: whole CPUs and GPUs, GiB of memory, least and most pods."""

    name: str
    cpus: int
    memory_gib: int
    least: int
    most: int
    gpus: int = 0
    accelerator_type: str | None = None
    node_labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Replicas:
    """Replicas of one kind between bounds."""

    name: str
    demand: ResourceDemand
    most: int


def worker_groups(config: Config, *, spread: int = 1) -> list[WorkerGroup]:
    """One group for all that needs no GPU, one for each pool that does; at least `spread` pods in the first.

    Raises ConfigError where cluster.nodes are stated and none holds a pod.
    """
    wanted = list(_wanted(config))
    groups = [_without_gpus([w for w in wanted if not w.demand.gpus], spread)]
    groups += [_with_gpus(w) for w in wanted if w.demand.gpus]
    return [_on_nodes(group, config.cluster.nodes) for group in groups]


def _wanted(config: Config) -> Iterator[_Replicas]:
    gateway = config.gateway
    yield _Replicas("gateway", ResourceDemand("gateway", gateway.num_cpus, replicas=gateway.replicas), gateway.replicas)
    if config.streams.enabled:
        yield _Replicas("learner", ResourceDemand("learner", config.streams.num_cpus), 1)
    bounds = [("scorer", config.scorer.resources, config.scorer.replicas or 0, config.scorer.replicas or 0)]
    bounds += [(n, p.resources, p.replicas.min, p.replicas.max) for n, p in config.pools.items() if not p.remote]
    for name, asked, least, most in bounds:
        if most:
            memory, kind = asked.memory_gib or 0.0, asked.accelerator_type
            yield _Replicas(name, ResourceDemand(name, asked.num_cpus, asked.num_gpus, memory, kind, least), most)


def _without_gpus(wanted: list[_Replicas], spread: int) -> WorkerGroup:
    cpus = max(_CPU_POD_CPUS, *(math.ceil(w.demand.cpus) for w in wanted))
    largest = max(w.demand.memory_gib for w in wanted)
    memory = math.ceil(max(_GIB_PER_CPU * cpus, largest + _RAY_GIB))
    room = (float(cpus), memory - _RAY_GIB)
    least = _pods((w.demand for w in wanted for _ in range(w.demand.replicas)), room)
    most = _pods((w.demand for w in wanted for _ in range(w.most)), room)
    # one pod more than is needed at most: a rolling update or a drain puts replicas elsewhere first
    return WorkerGroup("cpu", cpus, memory, max(least, spread), max(most, spread) + 1)


def _pods(demands: Iterable[ResourceDemand], room: tuple[float, float]) -> int:
    """Pods of that many CPUs and GiB that hold all replicas: first fit, largest first."""
    pods: list[tuple[float, float]] = []
    for demand in sorted(demands, key=lambda d: (-d.cpus, -d.memory_gib)):
        for number, (cpus, memory) in enumerate(pods):
            if demand.cpus <= cpus + 1e-9 and demand.memory_gib <= memory + 1e-9:
                pods[number] = (cpus - demand.cpus, memory - demand.memory_gib)
                break
        else:
            pods.append((room[0] - demand.cpus, room[1] - demand.memory_gib))
    return max(len(pods), 1)


def _with_gpus(wanted: _Replicas) -> WorkerGroup:
    asked = wanted.demand
    gpus = math.ceil(asked.gpus)
    per_pod = max(int(gpus / asked.gpus + 1e-9), 1)
    memory = per_pod * (asked.memory_gib or _GIB_PER_GPU * asked.gpus) + _RAY_GIB
    return WorkerGroup(
        name=wanted.name.replace("_", "-"),
        cpus=max(math.ceil(per_pod * asked.cpus), 1),
        memory_gib=math.ceil(memory),
        least=math.ceil(asked.replicas / per_pod),
        most=math.ceil(wanted.most / per_pod),
        gpus=gpus,
        accelerator_type=asked.accelerator_type,
    )


def _on_nodes(group: WorkerGroup, nodes: tuple[NodeConfig, ...]) -> WorkerGroup:
    """The group, bound to the labels of the smallest nodes that hold its pods. Raises ConfigError if none does."""
    if not nodes:
        return group
    pod = ResourceDemand(group.name, group.cpus, group.gpus, group.memory_gib, group.accelerator_type)
    fitting = sorted((n for n in nodes if pod.fits(n)), key=lambda n: (n.gpus, n.cpus))
    if not fitting:
        raise ConfigError(
            f"cluster.nodes: a pod of the worker group {group.name} takes {pod} (replica and Ray together) and no node "
            "has that: add a larger node, or lower resources of the pools in it"
        )
    return WorkerGroup(
        group.name, group.cpus, group.memory_gib, group.least, group.most, group.gpus, group.accelerator_type,
        dict(fitting[0].labels) if group.gpus else {},
    )  # fmt: skip


IMAGE = "jethro:0.1.0"
LABELS = {"app.kubernetes.io/part-of": "jethro"}
CALLER_KEYS, UPSTREAM_KEYS, MODEL_HUB = "jethro-keys", "jethro-upstream-keys", "jethro-model-hub"
"""Secrets by name. Their keys: tenants; environment variables; `token`. None of them is ever written here."""
CONFIG_PATH = "/etc/jethro/jethro.yaml"
STATE_PATH = "/var/lib/jethro"
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
PRE_STOP_S = 5
"""Until endpoints and HAProxy have dropped the pod; nothing is stopped before."""
_STOP_S = 15
"""From the end of the drain to the end of Ray's processes."""
_LATENCY_MS = "5,10,25,50,100,250,500,1000,2500,5000,10000,30000,60000,120000,300000,600000"


def drain_s(config: Config) -> int:
    """How long Ray waits for replicas on SIGTERM: longer than any of them drains."""
    pools = [pool.drain_s + 10 for pool in config.pools.values() if not pool.remote]
    return math.ceil(max([config.gateway.drain_s, *pools])) + 10


def grace_s(config: Config) -> int:
    """A pod's grace period: preStop, drain and stop one after the other."""
    return PRE_STOP_S + drain_s(config) + _STOP_S


def environment(config: Config) -> list[dict[str, Any]]:
    """The same for head and workers; secrets by reference only."""
    plain = SERVE_ENVIRONMENT | {
        DRAIN: str(drain_s(config)),
        "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": _LATENCY_MS,
        "RAY_DASHBOARD_MAX_EVENTS_TO_CACHE": "2000",
        "JETHRO_CONFIG": CONFIG_PATH,
        "HF_HOME": f"{STATE_PATH}/models",
    }
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    env += [_from_secret(key.env, CALLER_KEYS, key.name) for key in config.server.keys]
    engines = [pool.engine for pool in config.pools.values()]
    upstream = {engine.api_key_env for engine in engines if isinstance(engine, OpenAIEngine) and engine.api_key_env}
    env += [_from_secret(name, UPSTREAM_KEYS, name) for name in sorted(upstream)]
    if any(isinstance(engine, VllmEngine) for engine in engines):
        env.append(_from_secret("HF_TOKEN", MODEL_HUB, "token", optional=True))
    return env


def worker_group(group: WorkerGroup, config: Config) -> dict[str, Any]:
    """An entry of workerGroupSpecs."""
    spec: dict[str, Any] = {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "rayStartParams": {},
    }
    if group.accelerator_type:
        # Trouble: not learned from a pod that is not there yet (kuberay #863). Where any is told, all must be
        spec["resources"] = {
            "CPU": str(group.cpus),
            "GPU": str(group.gpus),
            "memory": str(group.memory_gib * 2**30),
            f"accelerator_type:{group.accelerator_type}": "1",
        }
    spec["template"] = {"metadata": {"labels": dict(LABELS)}, "spec": _pod(group, config)}
    return spec


def _pod(group: WorkerGroup, config: Config) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "serviceAccountName": "jethro-worker",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": grace_s(config),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": LABELS | {"ray.io/group": group.name}},
            }
        ],
        "containers": [_container(group, config)],
        "volumes": [
            {"name": "config", "configMap": {"name": "jethro-config"}},
            {"name": "state", "emptyDir": {}},
        ],
    }
    if group.node_labels:
        pod["nodeSelector"] = group.node_labels
    if group.gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(group: WorkerGroup, config: Config) -> dict[str, Any]:
    # limits = requests: Ray takes its logical CPUs and memory from the limits, and the autoscaler the GPUs
    resources = {"cpu": str(group.cpus), "memory": f"{group.memory_gib}Gi"}
    if group.gpus:
        resources["nvidia.com/gpu"] = str(group.gpus)
    return {
        "name": "ray-worker",
        "image": IMAGE,
        "env": environment(config),
        "ports": [{"containerPort": 8000, "name": "serve"}, {"containerPort": 8080, "name": "metrics"}],
        "resources": {"requests": resources, "limits": dict(resources)},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_S)]}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/jethro", "readOnly": True},
            {"name": "state", "mountPath": STATE_PATH},
        ],
    }


def _from_secret(env: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    reference: dict[str, Any] = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": env, "valueFrom": {"secretKeyRef": reference}}
