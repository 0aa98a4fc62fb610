"""`build`: the config's pools, Scorer, Learner and Gateways as one Ray Serve application."""

import warnings
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig
from ray.serve.schema import LoggingConfig

from serve_app.config import Config, load
from serve_app.config.pools import PoolConfig, ResourcesConfig
from serve_app.deployments.gateway import GatewayReplica
from serve_app.deployments.learner import LearnerReplica
from serve_app.deployments.pool import PoolReplica
from serve_app.deployments.scaling import InFlightPolicy, share_limits
from serve_app.deployments.scorer import ScorerReplica
from serve_app.routing.serving.scoring_service import required_replicas

_REPORT_S = 1.0
"""How often Gateways and replicas report to the controller."""
_LOOK_BACK_S = 3.0
"""Window that Serve averages over for the policy on requests in flight; it needs more than one report."""


class BuildArgs(BaseModel):
    """Arguments of the application in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    config: str | dict[str, Any] = Field("lab", description="Profile, YAML file, or the tree itself.")
    engine_factory: str = Field(
        "serve_app.engines.factory:build_engine", description="module:function that makes a pool's engine."
    )


def build(args: BuildArgs) -> serve.Application:
    """The application. Raises ConfigError where the config is wrong."""
    config = load(args.config) if isinstance(args.config, str) else Config.model_validate(args.config)
    # what a Gateway lets in may grow a little when it is written again
    body_bytes = 2 * config.limits.body_bytes
    handles = {
        name: _pool(name, pool, args.engine_factory, body_bytes, config)
        for name, pool in config.pools.items()
        if not pool.remote
    }
    scorer = _scorer(config)
    options = config.gateway
    gateway = serve.deployment(
        serve.ingress()(GatewayReplica),
        name="Gateway",
        # fixed bounds, yet autoscaled by name: only then does Serve carry what Gateways report to the policy
        autoscaling_config=_scaling(
            min_replicas=options.replicas, initial_replicas=options.replicas, max_replicas=options.replicas
        ),
        ray_actor_options={"num_cpus": options.num_cpus},
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=options.retry_after_s),
        graceful_shutdown_timeout_s=options.drain_s,
        # the Gateway's own request log says more than Serve's line per request, and costs less
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    return gateway.bind(config.model_dump(mode="json"), handles, scorer, _learner(config))


def deployment_name(pool: str) -> str:
    """`small` is SmallPool."""
    return "".join(part.capitalize() for part in pool.replace("-", "_").split("_")) + "Pool"


def _pool(name: str, pool: PoolConfig, engine_factory: str, body_bytes: int, config: Config) -> serve.Application:
    deployment = serve.deployment(
        PoolReplica,
        name=deployment_name(name),
        ray_actor_options=_actor_options(pool.resources),
        # requests go to the replica's own port, which has its own bounds; handle calls are control only
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=pool.drain_s + 10,
        health_check_period_s=2,
        health_check_timeout_s=30,
        **_replicas(name, pool),
    )
    settings, adapters = pool.model_dump(mode="json"), config.adapters.model_dump(mode="json")
    log = config.log.model_dump(mode="json", exclude={"access", "metrics"})
    return deployment.bind(name, settings, engine_factory, body_bytes, log, adapters)


def _replicas(name: str, pool: PoolConfig) -> dict[str, Any]:
    """A pool that embeds and may sleep begins asleep: many endpoints never serve a vector."""
    bounds = pool.replicas
    if bounds.fixed:
        return {"num_replicas": bounds.max}
    share = share_limits(pool)
    return {
        "autoscaling_config": _scaling(
            min_replicas=bounds.min,
            initial_replicas=bounds.min if pool.embeds else max(bounds.min, 1),
            max_replicas=bounds.max,
            # the share policy has its own delays
            upscale_delay_s=0.0 if share else bounds.upscale_delay_s,
            downscale_delay_s=0.0 if share else bounds.downscale_delay_s,
            policy=AutoscalingPolicy(
                policy_function=InFlightPolicy,
                policy_kwargs={"target_ongoing_requests": bounds.target_ongoing_requests, "pool": name, "share": share},
            ),
        )
    }


def _scaling(**options: Any) -> AutoscalingConfig:
    with warnings.catch_warnings():
        # Ray 2.60 deprecates this setting for a variable of the environment that its replicas do not read yet
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(metrics_interval_s=_REPORT_S, look_back_period_s=_LOOK_BACK_S, **options)


def _scorer(config: Config) -> serve.Application | None:
    """The Scorer, if a router needs it."""
    if (replicas := required_replicas(config)) == 0:
        return None
    deployment = serve.deployment(
        ScorerReplica,
        name="Scorer",
        num_replicas=replicas,
        ray_actor_options=_actor_options(config.scorer.resources),
        # batches are made in the replica; who waits too long is answered by the strong pool
        max_ongoing_requests=config.gateway.max_ongoing_requests,
        health_check_timeout_s=30,
    )
    return deployment.bind(config.model_dump(mode="json"))


def _learner(config: Config) -> serve.Application | None:
    """The Learner, if there may be streams; one, since it owns their state."""
    if not config.streams.enabled:
        return None
    return serve.deployment(
        LearnerReplica,
        name="Learner",
        num_replicas=1,
        ray_actor_options={"num_cpus": config.streams.num_cpus},
        max_ongoing_requests=config.gateway.replicas * 16,
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=20,
    ).bind(config.model_dump(mode="json"))


def _actor_options(r: ResourcesConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": r.num_cpus, "num_gpus": r.num_gpus}
    if r.accelerator_type:
        options["accelerator_type"] = r.accelerator_type
    if r.memory_gib:
        options["memory"] = int(r.memory_gib * 2**30)
    return options
