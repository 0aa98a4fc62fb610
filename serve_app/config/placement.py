"""What a whole config asks of machines, and why it cannot be had: found before anything starts."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from serve_app.config.cluster import Demand, misfit
from serve_app.config.engines import TransformersEngine, VllmEngine

if TYPE_CHECKING:
    from serve_app.config.tree import Config, PoolConfig, ResourcesConfig


def refusal(config: "Config") -> str | None:
    """The first reason why no machine could serve this, with the mend; None if there is none."""
    for name, pool in config.pools.items():
        if (said := _devices(f"pools.{name}", pool)) is not None:
            return said
    return misfit(config.cluster.nodes, list(demands(config)))


def demands(config: "Config") -> Iterator[Demand]:
    """Gateways, Scorer, Learner, then the pools that run here."""
    yield Demand("gateway.num_cpus", config.gateway.num_cpus, replicas=config.gateway.replicas)
    if config.scorer.replicas:
        yield _demand("scorer.resources", config.scorer.resources, config.scorer.replicas)
    if config.streams.enabled:
        yield Demand("streams.num_cpus", config.streams.num_cpus)
    for name, pool in config.pools.items():
        if not pool.remote:
            yield _demand(f"pools.{name}.resources", pool.resources, pool.replicas.min)


def _demand(who: str, resources: "ResourcesConfig", replicas: int) -> Demand:
    return Demand(
        who,
        resources.num_cpus,
        resources.num_gpus,
        resources.memory_gib or 0.0,
        resources.accelerator_type,
        replicas,
    )


def _devices(where: str, pool: "PoolConfig") -> str | None:
    """An engine that needs a GPU which its replica is not given, or the other way round."""
    engine, gpus = pool.engine, pool.resources.num_gpus
    if isinstance(engine, TransformersEngine):
        if engine.device.startswith("cuda") and not gpus:
            return (
                f"{where}.engine.device is {engine.device} and {where}.resources.num_gpus is 0, so that Ray hides "
                "every GPU from the replica: set num_gpus: 1, or device: cpu"
            )
        if engine.device == "cpu" and gpus:
            return (
                f"{where}.resources.num_gpus is {gpus:g} and {where}.engine.device is cpu: set device: cuda, or 0 GPUs"
            )
    if isinstance(engine, VllmEngine) and gpus and engine.tensor_parallel > math.ceil(gpus):
        return (
            f"{where}.engine.tensor_parallel {engine.tensor_parallel} needs as many GPUs and "
            f"{where}.resources.num_gpus is {gpus:g}: set num_gpus: {engine.tensor_parallel}"
        )
    return None
