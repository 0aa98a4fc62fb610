"""Starts the application on a Ray of its own (or the one at RAY_ADDRESS), waits, and stops it in order."""

import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serve_app.config import Config, secret
from serve_app.config.environment import cluster_address, prepare_serve_environment
from serve_app.deployments.scaling import SHARE_POLICY, share_limits
from serve_app.engines.factory import preflight
from serve_app.errors import ConfigError
from serve_app.routing.registry import Registry
from serve_app.routing.serving.scoring_service import required_replicas

_APP = "jethro"
_ERROR_LINE = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception): (.+)")


def start(config: Config, *, engine_factory: str | None = None) -> None:
    """Serve the config; returns when the application answers. Raises ConfigError if it cannot run."""
    check_secrets(config)
    if cluster_address() is None:
        check_port(config)
        for name, pool in config.pools.items() if engine_factory is None else ():
            preflight(name, pool)
    prepare_serve_environment(loopback=cluster_address() is None)
    import ray  # after the environment is set: ray.serve reads it at import
    from ray import serve
    from ray.serve.config import HTTPOptions

    from serve_app.deployments.application import BuildArgs, build

    if not ray.is_initialized():
        if cluster_address():
            ray.init(log_to_driver=False)
        else:
            ray.init(include_dashboard=False, log_to_driver=False)
    _check_resources(config, ray.cluster_resources())
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=config.server.host, port=config.server.port, keep_alive_timeout_s=120),
    )
    tree = config.model_dump(mode="json")
    if not cluster_address():
        # relative to the operator's working directory, not to the one of Ray's workers
        tree["store"]["path"] = str(Path(config.store.path).absolute())
        tree["streams"]["folder"] = str(Path(config.streams.folder).absolute())
        tree["routing"]["registry"] = str(Path(config.routing.registry).absolute())
        cascade = tree["cascade"]
        for branch, key in ((cascade, "chain"), (cascade["streaming"], "chain"), (cascade, "routing")):
            branch[key] = None if branch[key] is None else str(Path(branch[key]).absolute())
        router = config.routing.router
        if router is not None and router not in Registry(Path(config.routing.registry)).names():
            tree["routing"]["router"] = str(Path(router).absolute())
    args: dict[str, Any] = {"config": tree}
    if engine_factory:
        args["engine_factory"] = engine_factory
    try:
        if any(share_limits(pool) for pool in config.pools.values()):
            _deploy(args)
        else:
            serve.run(build(BuildArgs.model_validate(args)), name=_APP, route_prefix="/")
    except RuntimeError as e:
        messages = {n: d.message for n, d in serve.status().applications[_APP].deployments.items()}
        raise ConfigError(why_failed(messages) or str(e)) from e


def _deploy(args: Mapping[str, Any]) -> None:
    """Start by a Serve config, which alone can carry a policy of the whole application. Raises RuntimeError."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ApplicationStatus, ServeDeploySchema

    application = {
        "name": _APP,
        "route_prefix": "/",
        "import_path": "serve_app.deployments:build",
        "args": args,
        "autoscaling_policy": {"policy_function": SHARE_POLICY},
    }
    client = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))
    while (now := serve.status().applications.get(_APP)) is None or now.status != ApplicationStatus.RUNNING:
        if now is not None and now.status == ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(now.message)
        time.sleep(0.2)
    client.wait_for_proxies_serving(wait_for_applications_running=True)


def stop() -> None:
    """Drain and stop the application, and Ray if this process started it."""
    import ray
    from ray import serve

    if ray.is_initialized():  # otherwise Serve would start a Ray only to stop it
        serve.shutdown()
        ray.shutdown()


def run(config: Config, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM, then drain. `ready` is called once the endpoint answers."""
    over = threading.Event()
    try:
        start(config)
        for number in (signal.SIGINT, signal.SIGTERM):  # not before: Ray puts its own handlers in place
            signal.signal(number, lambda *_: over.set())
        ready()
        while not over.wait(1.0):
            continue
    finally:
        stop()


def why_failed(messages: Mapping[str, str]) -> str:
    """The last sentence of each failed deployment's message, a traceback as text: it says what to fix."""
    found = []
    for deployment, message in messages.items():
        if errors := [m for line in message.splitlines() if (m := _ERROR_LINE.match(line.strip()))]:
            found.append(f"{deployment} did not start: {errors[-1][1]}")
    return "\n".join(found)


def check_port(config: Config) -> None:
    """The address is free. Raises ConfigError naming it."""
    host, port = config.server.host, config.server.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as e:
            raise ConfigError(
                f"server.host, server.port: cannot listen on {host}:{port} ({e.strerror}); "
                "stop what listens there or choose another with --port"
            ) from e


def check_secrets(config: Config) -> None:
    """Every secret that the config refers to is set. Raises ConfigError naming the variable."""
    for key in config.server.keys:
        secret(key.env, used_by=f"server.keys ({key.name})")
    for name, pool in config.pools.items():
        if env := getattr(pool.engine, "api_key_env", None):
            secret(env, used_by=f"pools.{name}.engine.api_key_env")


def _check_resources(config: Config, cluster: dict[str, float]) -> None:
    """Refuse at once a config that needs more CPUs or GPUs than the cluster has: it would wait forever."""
    for resource in ("CPU", "GPU"):
        field = f"num_{resource.lower()}s"
        need = config.gateway.replicas * config.gateway.num_cpus if resource == "CPU" else 0.0
        need += sum(p.replicas.min * getattr(p.resources, field) for p in config.pools.values() if not p.remote)
        need += required_replicas(config) * getattr(config.scorer.resources, field)
        need += config.streams.num_cpus if resource == "CPU" and config.streams.enabled else 0.0
        have = cluster.get(resource, 0.0)
        if need > have + 1e-9:
            raise ConfigError(
                f"the config requires {need:g} {resource}s (gateway.num_cpus, pools.*.replicas × resources.{field}, "
                f"scorer, streams) and the Ray cluster has {have:g}: lower {field} or the replicas, or add nodes"
            )
