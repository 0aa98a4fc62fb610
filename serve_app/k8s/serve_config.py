"""A Serve config, strictly: Ray drops keys that it does not know in silence, here they are mistakes.

Ray 2.60's keys, less those that KubeRay or we keep to ourselves: `target_capacity` is the operator's, host and port
inside an application are an error, and what a deployment does is said by the one config in `args`.
"""

from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from serve_app.config import Config
from serve_app.config.base import Node
from serve_app.config.load import UniqueKeyLoader
from serve_app.config.mistakes import sentence

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
        tree = yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        return None, [f"{where}: not valid YAML: {e}"]
    try:
        return ServeConfig.model_validate(tree), []
    except ValidationError as e:
        return None, [sentence(where, err, ServeConfig) for err in e.errors()]
