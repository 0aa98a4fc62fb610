"""The Serve config of a RayService against its pods: keys, bounds, drains, and a place for every replica."""

from collections.abc import Iterator
from typing import Any

from serve_app.config import Config
from serve_app.config.cluster import Demand, NodeConfig
from serve_app.config.placement import demands
from serve_app.k8s.pod_rules import pods_of, ray_drain_s, variables
from serve_app.k8s.quantity import quantity
from serve_app.k8s.serve_config import ServeConfig, parse_serve_config

_WHERE = "spec.serveConfigV2"


def serving_mistakes(body: dict[str, Any]) -> Iterator[str]:
    """Sentences on the Serve config, and on what it needs of the pods."""
    text = body["spec"].get("serveConfigV2")
    if not text:
        yield f"{_WHERE}: missing; `jethro k8s render` writes it"
        return
    serve, mistakes = parse_serve_config(text, _WHERE)
    yield from mistakes
    if serve is None:
        return
    config = serve.applications[0].args.config
    yield from _addresses(serve, config)
    yield from _secrets(body, config)
    yield from _drains(body, config)
    yield from _places(body, config)


def config_of(body: dict[str, Any]) -> Config | None:
    """The config in a RayService; None if it has a mistake."""
    serve, _ = parse_serve_config(body["spec"].get("serveConfigV2") or "", _WHERE)
    return None if serve is None else serve.applications[0].args.config


def _addresses(serve: ServeConfig, config: Config) -> Iterator[str]:
    options = serve.http_options
    if (options.host, options.port) != (config.server.host, config.server.port):
        yield (
            f"{_WHERE}: http_options listen on {options.host}:{options.port} and the config's server says "
            f"{config.server.host}:{config.server.port}, by which it decides whether keys are needed: make them equal"
        )
    if options.port != 8000:
        yield f"{_WHERE}: http_options.port {options.port}: the operator's services and probes expect 8000"
    if options.host != "0.0.0.0":  # noqa: S104 - the pod's addresses
        yield f"{_WHERE}: http_options.host {options.host}: pods are reached from elsewhere; set 0.0.0.0"


def _secrets(body: dict[str, Any], config: Config) -> Iterator[str]:
    wanted = {key.env: f"server.keys ({key.name})" for key in config.server.keys}
    for name, pool in config.pools.items():
        variable = getattr(pool.engine, "api_key_env", None)
        if variable:
            wanted[variable] = f"pools.{name}.engine.api_key_env"
    for where, _, template in pods_of(body)[1:]:
        missing = [f"{env} of {used}" for env, used in wanted.items() if env not in variables(template)]
        if missing:
            yield f"{where}: env {', '.join(missing)} is not given; add it with secretKeyRef"


def _drains(body: dict[str, Any], config: Config) -> Iterator[str]:
    pools = [(f"pools.{n}.drain_s", p.drain_s) for n, p in config.pools.items() if not p.remote]
    for where, _, template in pods_of(body):
        ray = ray_drain_s(template)
        for key, seconds in [("gateway.drain_s", config.gateway.drain_s), *pools]:
            if seconds >= ray:
                yield f"{where}: Ray drains for {ray:g} s and {key} is {seconds:g}: raise the one or lower the other"


def _places(body: dict[str, Any], config: Config) -> Iterator[str]:
    """Every replica in some group's pod, and enough pods for the most replicas that need GPUs."""
    groups = body["spec"]["rayClusterConfig"].get("workerGroupSpecs", [])
    shapes = [(group, shape(group)) for group in groups]
    most = {f"pools.{n}.resources": p.replicas.max for n, p in config.pools.items()}
    pod_names = ", ".join(str(group["groupName"]) for group in groups)
    for demand in demands(config):
        fitting = [(group, pod) for group, pod in shapes if demand.fits(pod)]
        if not fitting:
            yield f"{demand.who} asks for {demand} and no pod of the worker groups ({pod_names}) has that"
        elif demand.gpus:
            yield from _bounds(demand, fitting, most.get(demand.who, demand.replicas))
        elif all(pod.gpus for _, pod in fitting):
            names = ", ".join(str(group["groupName"]) for group, _ in fitting)
            yield f"{demand.who} needs no GPU and fits GPU pods only ({names}), which it would keep alive"


def _bounds(demand: Demand, fitting: list[tuple[dict[str, Any], NodeConfig]], most: int) -> Iterator[str]:
    room = sum(int(pod.gpus / demand.gpus + 1e-9) * group["maxReplicas"] for group, pod in fitting)
    if room < most:
        yield f"{demand.who}: up to {most} replicas, and the worker groups that hold one have room for {room}"
    for group, pod in fitting:
        if f"pools.{group['groupName']}.resources" == demand.who.replace("_", "-"):
            # replicas that share a GPU come by the pod: the last one may have places left over
            least = int(pod.gpus / demand.gpus + 1e-9) * max(group.get("minReplicas", 0) - 1, 0)
            if least >= most:
                yield f"{demand.who}: at most {most} replicas, and its worker group keeps pods for more than that"


def shape(group: dict[str, Any]) -> NodeConfig:
    """A group's pod as Ray will count it: group resources first, then limits."""
    limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    logical = group.get("resources", {})
    gpus = sum(quantity(value) or 0.0 for key, value in limits.items() if key.endswith("gpu"))
    kinds = [key.removeprefix("accelerator_type:") for key in logical if key.startswith("accelerator_type:")]
    memory = quantity(logical.get("memory", limits.get("memory", 0))) or 0.0
    return NodeConfig(
        cpus=quantity(logical.get("CPU", limits.get("cpu", 0))) or 1e-3,
        memory_gib=memory / 2**30 or None,
        gpus=int(quantity(logical.get("GPU", gpus)) or 0),
        accelerator_type=kinds[0] if kinds else None,
    )
