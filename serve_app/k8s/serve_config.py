"""A Serve config, strictly: Ray drops keys that it does not know in silence, here they are mistakes.

Ray 2.60's keys, less those that KubeRay or we keep to ourselves: `target_capacity` is the operator's, host and port
inside an application are an error, and what a deployment does is said by the one config in `args`.

The Serve config of a RayService against its pods: keys, bounds, drains, and a place for every replica.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from serve_app.config import Config
from serve_app.config.base import Node
from serve_app.config.cluster import NodeConfig, ResourceDemand
from serve_app.config.load import UniqueKeyLoader
from serve_app.config.validation import sentences
from serve_app.k8s.rules.front import front_mistakes
from serve_app.k8s.rules.pods import pods_of, quantity, variables
from serve_app.k8s.stopping import drains, hook_of, hook_times, ray_drain_of

Port = Annotated[int, Field(ge=1, le=65535)]
_ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[:.][A-Za-z_]\w*$")]


class HttpOptions(Node):
    """Serve's own HTTP server; Ray's default has no limit on a request's time, so one must be stated."""

    host: str
    port: Port
    root_path: str = ""
    request_timeout_s: PositiveFloat
    keep_alive_timeout_s: PositiveInt = 90


class LoggingOptions(Node):
    """What Serve's components log."""

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    additional_log_standard_attrs: tuple[str, ...] = ()


class PolicyOptions(Node):
    """A policy by import path; Ray hands `policy_kwargs` to classes only."""

    policy_function: _ImportPath
    policy_kwargs: dict[str, Any] = Field(default_factory=dict)


class AutoscalingOptions(Node):
    """Bounds and delays of one deployment; without initial_replicas, which an incremental upgrade makes the floor."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat = 2.0
    look_back_period_s: PositiveFloat = 30.0
    upscale_delay_s: NonNegativeFloat = 30.0
    downscale_delay_s: NonNegativeFloat = 600.0
    downscale_to_zero_delay_s: NonNegativeFloat | None = None
    upscaling_factor: PositiveFloat | None = None
    downscaling_factor: PositiveFloat | None = None
    aggregation_function: Literal["mean", "min", "max"] = "mean"
    policy: PolicyOptions | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class BackpressureOptions(Node):
    """The answer of a full queue."""

    status_code: Literal[429, 503] = 503
    retry_after_s: PositiveInt | None = None


class ActorOptions(Node):
    """What Ray reserves for a replica."""

    num_cpus: NonNegativeFloat | None = None
    num_gpus: NonNegativeFloat | None = None
    memory: PositiveFloat | None = None
    accelerator_type: str | None = None
    resources: dict[str, float] = Field(default_factory=dict)
    label_selector: dict[str, str] = Field(default_factory=dict)


class DeploymentOptions(Node):
    """Overrides of one deployment. No max_replicas_per_node: a hidden resource that no group declares (ray #48471)."""

    name: str
    num_replicas: PositiveInt | Literal["auto"] | None = None
    max_ongoing_requests: PositiveInt | None = None
    max_queued_requests: Annotated[int, Field(ge=-1)] | None = None
    backpressure_config: BackpressureOptions | None = None
    user_config: dict[str, Any] | None = None
    autoscaling_config: AutoscalingOptions | None = None
    graceful_shutdown_wait_loop_s: NonNegativeFloat | None = None
    graceful_shutdown_timeout_s: NonNegativeFloat | None = None
    health_check_period_s: PositiveFloat | None = None
    health_check_timeout_s: PositiveFloat | None = None
    ray_actor_options: ActorOptions | None = None
    logging_config: LoggingOptions | None = None
    rolling_update_percentage: Annotated[float, Field(gt=0, le=1)] | None = None
    max_surge_percent: Annotated[int, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if isinstance(self.num_replicas, int) and self.autoscaling_config is not None:
            raise ValueError("num_replicas and autoscaling_config contradict each other: keep one")
        return self


class BuildArguments(Node):
    """Arguments of our builder. The tree stands here itself, so that it is checked; a path would not be."""

    config: Config


class Application(Node):
    """The one application; one keeps the controller quick (ray #64984)."""

    name: Annotated[str, Field(min_length=1)]
    route_prefix: Annotated[str, Field(pattern=r"^/([^{}]*[^/{}])?$")]
    import_path: Literal["serve_app.deployments:build"]
    args: BuildArguments
    autoscaling_policy: PolicyOptions | None = None
    deployments: tuple[DeploymentOptions, ...] = ()
    logging_config: LoggingOptions | None = None


class ServeConfig(Node):
    """What `serveConfigV2` holds as a text."""

    proxy_location: Literal["EveryNode", "HeadOnly", "Disabled"] = "EveryNode"
    http_options: HttpOptions
    logging_config: LoggingOptions | None = None
    applications: Annotated[tuple[Application, ...], Field(min_length=1, max_length=1)]


def parse_serve_config(text: str, where: str) -> tuple[ServeConfig | None, list[str]]:
    """The Serve config, or its mistakes as sentences that begin with `where`."""
    try:
        return ServeConfig.model_validate(yaml.load(text, Loader=UniqueKeyLoader)), []  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        return None, [f"{where}: not valid YAML: {e}"]
    except ValidationError as e:
        return None, sentences(where, e.errors(), ServeConfig)


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
    yield from front_mistakes(body, config)
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
        yield f"{_WHERE}: http_options.host {options.host}: pods are reached from other machines; set 0.0.0.0"


def _secrets(body: dict[str, Any], config: Config) -> Iterator[str]:
    required = config.secrets()
    if config.server.keys and not config.server.metrics_key_env:
        yield f"{_WHERE}: server.metrics_key_env: missing; where callers need keys, /metrics is closed without its own"
    for where, _, template in pods_of(body)[1:]:
        missing = [f"{env} of {used}" for env, used in required.items() if env not in variables(template)]
        if missing:
            yield f"{where}: env {', '.join(missing)} is not given; add it with secretKeyRef"


def _drains(body: dict[str, Any], config: Config) -> Iterator[str]:
    for where, _, template in pods_of(body):
        ray, hook = ray_drain_of(template), hook_times(hook_of(template))
        for key, seconds in drains(config).items():
            if seconds >= ray:
                yield f"{where}: Ray drains for {ray:g} s and {key} is {seconds:g}: raise the one or lower the other"
            if hook is not None and seconds > hook[1]:
                yield f"{where}: the preStop drains for {hook[1]:g} s and {key} is {seconds:g}: render again"


def _places(body: dict[str, Any], config: Config) -> Iterator[str]:
    """Every replica in some group's pod, and enough pods for the most replicas that need GPUs."""
    groups = body["spec"]["rayClusterConfig"].get("workerGroupSpecs", [])
    shapes = [(group, shape(group)) for group in groups]
    most = {f"pools.{n}.resources": p.replicas.max for n, p in config.pools.items()}
    pod_names = ", ".join(str(group["groupName"]) for group in groups)
    for demand in config.demands():
        fitting = [(group, pod) for group, pod in shapes if demand.fits(pod)]
        if not fitting:
            yield f"{demand.who} needs {demand} and no pod of the worker groups ({pod_names}) has that"
        elif demand.gpus:
            yield from _bounds(demand, fitting, most.get(demand.who, demand.replicas))
        elif all(pod.gpus for _, pod in fitting):
            names = ", ".join(str(group["groupName"]) for group, _ in fitting)
            yield f"{demand.who} needs no GPU and fits GPU pods only ({names}), which it would keep alive"


def _bounds(demand: ResourceDemand, fitting: list[tuple[dict[str, Any], NodeConfig]], most: int) -> Iterator[str]:
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
