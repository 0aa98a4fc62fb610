"""Pools to worker groups: which pods Ray may ask Kubernetes for. Pure arithmetic on the config.

Trouble: a Gateway that lands on a GPU pod keeps it alive (kuberay #4445), so what needs no GPU has a group of its own.
Trouble: a replica must fit one pod (kuberay #1090), so a GPU pod is cut to the replica that it is for.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from serve_app.config import Config
from serve_app.config.cluster import Demand, NodeConfig
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
class _Wanted:
    """Replicas of one kind between bounds."""

    name: str
    demand: Demand
    most: int


def worker_groups(config: Config, *, spread: int = 1) -> list[WorkerGroup]:
    """One group for all that needs no GPU, one for each pool that does; at least `spread` pods in the first.

    Raises ConfigError where cluster.nodes are stated and none holds a pod.
    """
    wanted = list(_wanted(config))
    groups = [_without_gpus([w for w in wanted if not w.demand.gpus], spread)]
    groups += [_with_gpus(w) for w in wanted if w.demand.gpus]
    return [_on_nodes(group, config.cluster.nodes) for group in groups]


def _wanted(config: Config) -> Iterator[_Wanted]:
    gateway = config.gateway
    yield _Wanted("gateway", Demand("gateway", gateway.num_cpus, replicas=gateway.replicas), gateway.replicas)
    if config.streams.enabled:
        yield _Wanted("learner", Demand("learner", config.streams.num_cpus), 1)
    bounds = [("scorer", config.scorer.resources, config.scorer.replicas or 0, config.scorer.replicas or 0)]
    bounds += [(n, p.resources, p.replicas.min, p.replicas.max) for n, p in config.pools.items() if not p.remote]
    for name, asked, least, most in bounds:
        if most:
            memory, kind = asked.memory_gib or 0.0, asked.accelerator_type
            yield _Wanted(name, Demand(name, asked.num_cpus, asked.num_gpus, memory, kind, least), most)


def _without_gpus(wanted: list[_Wanted], spread: int) -> WorkerGroup:
    cpus = max(_CPU_POD_CPUS, *(math.ceil(w.demand.cpus) for w in wanted))
    largest = max(w.demand.memory_gib for w in wanted)
    memory = math.ceil(max(_GIB_PER_CPU * cpus, largest + _RAY_GIB))
    room = (float(cpus), memory - _RAY_GIB)
    least = _pods((w.demand for w in wanted for _ in range(w.demand.replicas)), room)
    most = _pods((w.demand for w in wanted for _ in range(w.most)), room)
    # one pod more than is needed at most: a rolling update or a drain puts replicas elsewhere first
    return WorkerGroup("cpu", cpus, memory, max(least, spread), max(most, spread) + 1)


def _pods(demands: Iterable[Demand], room: tuple[float, float]) -> int:
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


def _with_gpus(wanted: _Wanted) -> WorkerGroup:
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
    pod = Demand(group.name, group.cpus, group.gpus, group.memory_gib, group.accelerator_type)
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
