"""Worker groups from the pools: pod shapes and bounds, their templates and environment.

Trouble: a Gateway that lands on a GPU pod keeps it alive (kuberay #4445), so what needs no GPU has a group of its own.
Trouble: a replica must fit one pod (kuberay #1090), so a GPU pod is sized for its replica.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from serve_app.config import Config
from serve_app.config.cluster import NodeConfig, ResourceDemand
from serve_app.config.engines import OpenAISettings, VllmSettings
from serve_app.config.environment import SERVE_ENVIRONMENT, front_variables
from serve_app.config.kubernetes import Labels
from serve_app.errors import ConfigError
from serve_app.front.settings import BOUNDS, PROGRAM, TOKEN
from serve_app.k8s.delivery import WEIGHTS_PATH
from serve_app.k8s.stopping import DRAIN, FRONT_FOLDER, PROGRAMS, grace_s, lifecycle, ray_drain_s
from serve_app.k8s.volumes import LOCKED, from_secret, init_containers, mounts, pod_variables, volumes

_CPU_POD_CPUS = 2
_GIB_PER_CPU = 2.0
_GIB_PER_GPU = 16.0
"""Memory of a pod whose replicas state none."""
_RAY_GIB = 1.0
"""Memory of Ray's own processes in a worker pod."""


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


def worker_groups(config: Config, *, spread: int = 1) -> list[WorkerGroup]:
    """One group for everything without a GPU, one for each pool with GPUs; at least `spread` pods in the first.

    Raises ConfigError where cluster.nodes are stated and none holds a pod, or no labels select an accelerator's nodes.
    """
    demands = list(_demands(config))
    groups = [_without_gpus([(demand, most) for demand, most in demands if not demand.gpus], spread)]
    groups += [_with_gpus(demand, most) for demand, most in demands if demand.gpus]
    known = config.kubernetes.accelerators
    return [_on_accelerators(_on_nodes(group, config.cluster.nodes), known) for group in groups]


def _demands(config: Config) -> Iterator[tuple[ResourceDemand, int]]:
    """What must be placed, under the names of the groups, and the most replicas of each."""
    gateway = config.gateway
    yield ResourceDemand("gateway", gateway.num_cpus, replicas=gateway.replicas), gateway.replicas
    if config.streams.enabled:
        yield ResourceDemand("learner", config.streams.num_cpus), 1
    if config.scorer.replicas:
        yield config.scorer.resources.demand("scorer", config.scorer.replicas), config.scorer.replicas
    for name, pool in config.pools.items():
        if not pool.remote and pool.replicas.max:
            yield pool.resources.demand(name, pool.replicas.min), pool.replicas.max


def _without_gpus(demands: list[tuple[ResourceDemand, int]], spread: int) -> WorkerGroup:
    cpus = max(_CPU_POD_CPUS, *(math.ceil(demand.cpus) for demand, _ in demands))
    largest = max(demand.memory_gib for demand, _ in demands)
    memory = math.ceil(max(_GIB_PER_CPU * cpus, largest + _RAY_GIB))
    room = (float(cpus), memory - _RAY_GIB)
    least = _pods((demand for demand, _ in demands for _ in range(demand.replicas)), room)
    most = _pods((demand for demand, most in demands for _ in range(most)), room)
    # one pod more than the maximum: a rolling update or a drain starts replicas elsewhere first
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


def _with_gpus(demand: ResourceDemand, most: int) -> WorkerGroup:
    gpus = math.ceil(demand.gpus)
    per_pod = max(int(gpus / demand.gpus + 1e-9), 1)
    return WorkerGroup(
        name=demand.who.replace("_", "-"),
        cpus=max(math.ceil(per_pod * demand.cpus), 1),
        memory_gib=math.ceil(per_pod * (demand.memory_gib or _GIB_PER_GPU * demand.gpus) + _RAY_GIB),
        least=math.ceil(demand.replicas / per_pod),
        most=math.ceil(most / per_pod),
        gpus=gpus,
        accelerator_type=demand.accelerator_type,
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
    return replace(group, node_labels=dict(fitting[0].labels) if group.gpus else {})


def _on_accelerators(group: WorkerGroup, known: Mapping[str, Labels]) -> WorkerGroup:
    """The group, bound to the nodes of its accelerator. Raises ConfigError if nothing says which those are.

    Trouble: the group declares the accelerator to Ray (kuberay #863), so on any other node replicas start there all
    the same, on the wrong GPU.
    """
    kind = group.accelerator_type
    if kind is None or group.node_labels:
        return group
    if kind not in known:
        raise ConfigError(
            f"worker group {group.name}: accelerator_type {kind}: no labels say which nodes have it: set labels of its "
            f"node in cluster.nodes, or kubernetes.accelerators.{kind}, for instance "
            f"{{nvidia.com/gpu.product: NVIDIA-{kind}}}; `kubectl get nodes --show-labels` shows yours"
        )
    return replace(group, node_labels=dict(known[kind]))


IMAGE = "jethro:0.1.0"
LABELS = {"app.kubernetes.io/part-of": "jethro"}
CALLER_KEYS, UPSTREAM_KEYS, MODEL_HUB = "jethro-keys", "jethro-upstream-keys", "jethro-model-hub"
"""Secrets by name. Their keys: tenants; environment variables; `token`. Their values are never written here."""
FRONT, METRICS_KEY, ADMIN_KEY, COLLECTOR = "jethro-front", "jethro-metrics", "jethro-admin", "jethro-collector"
"""Further Secrets, with the keys `token`, `key`, `key` and `headers`. Prometheus may read the second alone."""
CONFIG_PATH = "/etc/jethro/jethro.yaml"
_LATENCY_MS = "5,10,25,50,100,250,500,1000,2500,5000,10000,30000,60000,120000,300000,600000"


def environment(config: Config, *, head: bool = False) -> list[dict[str, Any]]:
    """The same for head and workers, but for callers' and upstreams' keys: the head has no replica that needs them.

    Secrets are references to Secrets only.
    """
    front = front_variables(PurePosixPath(PROGRAMS) / PROGRAM, PurePosixPath(FRONT_FOLDER))
    plain = (
        SERVE_ENVIRONMENT
        | front
        | {
            BOUNDS: json.dumps(config.front_bounds()),
            "RAY_worker_niceness": str(config.server.niceness),
            DRAIN: str(ray_drain_s(config)),
            "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": _LATENCY_MS,
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.deployments.request_ids:middlewares",
            "RAY_DASHBOARD_MAX_EVENTS_TO_CACHE": "2000",
            "JETHRO_CONFIG": CONFIG_PATH,
            "HF_HOME": WEIGHTS_PATH,
        }
    )
    if config.kubernetes.weights and config.kubernetes.weights.read_only:
        plain["HF_HUB_OFFLINE"] = "1"
    if config.log.traces.enabled and config.kubernetes.collector:
        plain["OTEL_EXPORTER_OTLP_ENDPOINT"] = config.kubernetes.collector
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    env.append(from_secret(TOKEN, FRONT, "token"))
    return env if head else [*env, *_secrets(config), *pod_variables(config)]


def _secrets(config: Config) -> list[dict[str, Any]]:
    env = [from_secret(key.env, CALLER_KEYS, key.name) for key in config.server.keys]
    if config.server.metrics_key_env:
        env.append(from_secret(config.server.metrics_key_env, METRICS_KEY, "key"))
    if config.server.admin_key_env:
        env.append(from_secret(config.server.admin_key_env, ADMIN_KEY, "key"))
    engines = [pool.engine for pool in config.pools.values()]
    remote = [engine for engine in engines if isinstance(engine, OpenAISettings)]
    upstream = {name for engine in remote for name in (engine.api_key_env, engine.proxy_auth_env) if name}
    env += [from_secret(name, UPSTREAM_KEYS, name) for name in sorted(upstream)]
    if any(isinstance(engine, VllmSettings) for engine in engines):
        env.append(from_secret("HF_TOKEN", MODEL_HUB, "token", optional=True))
    if config.log.traces.enabled:
        env.append(from_secret("OTEL_EXPORTER_OTLP_HEADERS", COLLECTOR, "headers", optional=True))
    return env


def worker_group(group: WorkerGroup, config: Config, extras: Sequence[str] = ()) -> dict[str, Any]:
    """An entry of workerGroupSpecs; `extras` are those that the image must have."""
    spec: dict[str, Any] = {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "rayStartParams": {},
    }
    if group.accelerator_type:
        # Trouble: unknown before a pod exists (kuberay #863). Where any is stated, all must be
        spec["resources"] = {
            "CPU": str(group.cpus),
            "GPU": str(group.gpus),
            "memory": str(group.memory_gib * 2**30),
            f"accelerator_type:{group.accelerator_type}": "1",
        }
    spec["template"] = {"metadata": {"labels": dict(LABELS)}, "spec": _pod(group, config, extras)}
    return spec


def _pod(group: WorkerGroup, config: Config, extras: Sequence[str]) -> dict[str, Any]:
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
        "initContainers": init_containers(config, extras, IMAGE),
        "containers": [_container(group, config)],
        "volumes": volumes(config),
    }
    if config.kubernetes.weights or config.kubernetes.state:
        # else the owner of every file of a large claim is set at each start
        pod["securityContext"]["fsGroupChangePolicy"] = "OnRootMismatch"
    if config.kubernetes.image_pull_secrets:
        pod["imagePullSecrets"] = pull_secrets(config)
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
        "lifecycle": lifecycle(config),
        "securityContext": dict(LOCKED),
        "volumeMounts": mounts(config),
    }


def pull_secrets(config: Config) -> list[dict[str, str]]:
    """A pod's imagePullSecrets."""
    return [{"name": name} for name in config.kubernetes.image_pull_secrets]
