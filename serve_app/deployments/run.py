"""Starts the application on a Ray of its own (or the one at RAY_ADDRESS), waits, and stops it in order."""

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from serve_app.config import Config
from serve_app.config.environment import cluster_address, prepare_serve_environment
from serve_app.deployments import signals
from serve_app.deployments.checks import check_resources, check_start
from serve_app.deployments.home import Home
from serve_app.deployments.readiness import Console, NoConsole, ReadyWatch, address, readiness_at
from serve_app.deployments.scaling import SHARE_POLICY, share_limits
from serve_app.errors import ConfigError, JethroError
from serve_app.gateway.services import Readiness
from serve_app.routing.reference import split_reference
from serve_app.routing.registry import Registry

logger = logging.getLogger("ray.serve")

_APP = "jethro"
_WATCH_S = 1.0
_LOOK_S = 0.05
_READY_S = 0.2
_LAST_WORD_S = 2.0
"""For the errors of what did not finish in time to reach the callers."""
_PROXY_S = 240
"""Longest wait for Serve's proxy and HAProxy at the start: on a busy machine each process takes its time."""
_home: list[Home] = []
"""Of the endpoint that this process started."""
_making = threading.Lock()
"""Held while a folder is made: a folder that is not in `_home` yet would be left over."""
_stopping = threading.Lock()
"""Held by the thread that stops the endpoint, until the end of the process."""
_ERROR_LINE = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception): (.+)")


def start(
    config: Config, *, engine_factory: str | None = None, source: str = "", warn: Callable[[str], None] = lambda _: None
) -> None:
    """Serve the config of the file `source`; returns when the application is deployed. `warn` gets what to say of it.

    Raises ConfigError if it cannot run, before Ray starts as far as that is known then, and Ended if the Ray of its own
    did not start.
    """
    report = check_start(config, own_engines=engine_factory is not None)
    report.require(source)
    for line in report.warnings:
        warn(line)
    if cluster_address():
        prepare_serve_environment()
        _launch(config, engine_factory)
        return
    with _making:
        _home.append(Home(config))
    for last in (False, True):
        try:
            _launch(config, engine_factory)
            return
        except JethroError:
            raise
        except Exception as e:  # on a busy machine Ray's processes may miss each other's limits
            if last:
                logs = _home[-1].logs
                raise Ended(f"Ray did not start in two attempts ({_first_line(e)}); its logs are in {logs}") from e
            logger.warning("Ray did not start, trying once more: %s", _first_line(e))
            _forget_ray(_home[-1])


def _forget_ray(home: Home) -> None:
    """Stop what has started of a Ray of our own, in this process too."""
    import ray
    from ray.serve.context import _set_global_client

    ray.shutdown()
    _set_global_client(None)
    home.sweep()


def _launch(config: Config, engine_factory: str | None) -> None:
    """Ray, Serve, and the application on them. Raises whatever Ray raises, and ConfigError."""
    import ray  # after the environment is set: ray.serve reads it at import

    own = None if cluster_address() else _home[-1]
    if own is None:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.WARNING}
        ray.init(_temp_dir=str(own.ray_folder), **quiet)
    check_resources(config, ray.cluster_resources())
    args: dict[str, Any] = {"config": _absolute(config) if own else config.model_dump(mode="json")}
    if engine_factory:
        args["engine_factory"] = engine_factory
    # on one machine HAProxy alone is at the address for callers (`FrontSettings.host`), Gateways are on localhost
    host = "127.0.0.1" if own else config.server.host
    _watched(lambda: _serve(config, host, args))


def _watched(work: Callable[[], None]) -> None:
    """Do the work in a thread. Raises RuntimeError if a process of our own Ray ends: then it would never return."""
    over, raised = threading.Event(), list[Exception]()

    def do() -> None:
        try:
            work()
        except Exception as e:
            raised.append(e)
        over.set()

    threading.Thread(target=do, name="start", daemon=True).start()
    while not over.wait(_LOOK_S):
        if (lost := _lost_process()) is not None:
            raise RuntimeError(f"its {lost} ended")
    if raised:
        raise raised[0]


def _serve(config: Config, host: str, args: dict[str, Any]) -> None:
    from ray import serve
    from ray.serve._private import api, client
    from ray.serve.config import HTTPOptions

    from serve_app.deployments.application import BuildArgs, build

    logger.setLevel(logging.WARNING)  # Serve's steps are its own affair: what matters to the operator is "ready"
    api.HTTP_PROXY_TIMEOUT = client.HTTP_PROXY_TIMEOUT = _PROXY_S  # no variable sets it
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=host, port=config.server.port, keep_alive_timeout_s=120),
    )
    try:
        if any(share_limits(pool) for pool in config.pools.values()):
            _deploy(args)
        else:
            serve.run(build(BuildArgs.model_validate(args)), name=_APP, route_prefix="/")
    except RuntimeError as e:
        application = serve.status().applications.get(_APP)
        if application is None:
            raise
        messages = {name: deployment.message for name, deployment in application.deployments.items()}
        raise ConfigError(why_failed(messages) or str(e)) from e


def _absolute(config: Config) -> dict[str, Any]:
    """The config with paths relative to the operator's working directory, not to the one of Ray's workers."""
    tree = config.model_dump(mode="json")
    tree["store"]["path"] = str(Path(config.store.path).absolute())
    tree["streams"]["folder"] = str(Path(config.streams.folder).absolute())
    tree["routing"]["registry"] = str(Path(config.routing.registry).absolute())
    cascade = tree["cascade"]
    for branch, key in ((cascade, "chain"), (cascade["streaming"], "chain"), (cascade, "routing")):
        branch[key] = None if branch[key] is None else str(Path(branch[key]).absolute())
    ensemble = tree["ensemble"]
    for key, folder in config.ensemble.folders.items():
        ensemble[key] = str(Path(folder).absolute())
    if config.routing.best_of is not None and (ranker := config.routing.best_of.ranker) is not None:
        tree["routing"]["best_of"]["ranker"] = str(Path(ranker).absolute())
    if config.routing.router is not None:
        source, version = split_reference(config.routing.router)
        if source not in Registry(Path(config.routing.registry)).names():
            source = str(Path(source).absolute())
        tree["routing"]["router"] = source if version is None else f"{source}@{version}"
    return tree


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


def stop(drain_s: float = 0.0, *, ended: bool = False) -> None:
    """Finish what is open within `drain_s`, stop the application, and Ray if this process started it.

    `ended`: a process of Ray has ended, and the others would be waited for in vain.
    """
    home = _home[-1] if _home else None
    if home is None:
        _stop_ray(ended=ended)
        return
    if not ended and not home.drain(drain_s):
        _end_requests()
        home.drain(_LAST_WORD_S)
    try:
        _stop_ray(ended=ended)
    except Exception as e:  # its processes are killed below
        logger.warning("Ray did not stop in order: %s", _first_line(e))
    finally:
        home.remove(logs=ended)
        _home.remove(home)


def _end_requests() -> None:
    from ray import serve

    try:
        handle = serve.get_deployment_handle("Gateway", _APP)
        handle._init(_run_router_in_separate_loop=True)  # this thread has no event loop
        handle.broadcast("end_requests").results(timeout_s=_LAST_WORD_S, return_exceptions=True)
    except Exception as e:  # no application yet, or its Ray is lost: no Gateway to be reached
        logger.warning("open requests are cut: %s", _first_line(e))


def _stop_ray(*, ended: bool) -> None:
    if "ray" not in sys.modules:  # the start was refused before
        return
    import ray
    from ray import serve

    if ray.is_initialized():  # otherwise Serve would start a Ray only to stop it
        if not ended:
            serve.shutdown()
        ray.shutdown()


def run(config: Config, *, console: Console | None = None, engine_factory: str | None = None, source: str = "") -> None:
    """Serve the config of the file `source` until SIGINT or SIGTERM, then drain; a second signal ends at once.

    For a process that does nothing else. Raises ConfigError if the config cannot run, Ended if the cluster that it
    started breaks.
    """
    console = console or NoConsole()
    over, served = threading.Event(), threading.Event()

    def on_signal() -> None:
        over.set()
        if not served.is_set():
            _end_start(config.gateway.drain_s)

    ended = False
    with signals.held():
        signals.take(on_signal, _end_at_once)
        try:
            start(config, engine_factory=engine_factory, source=source, warn=console.warn)
            served.set()
            watch = ReadyWatch(console, _state_of(config))
            while not over.wait(_WATCH_S if watch.done else _READY_S):
                watch.step()
                if (lost := _lost_process()) is not None:
                    raise Ended(f"{lost} of the Ray cluster ended: start again; its logs are in {_home[-1].logs}")
        except Ended:
            ended = True
            raise
        finally:
            _claim_the_end()
            stop(config.gateway.drain_s, ended=ended)
            signals.ignore()


def _state_of(config: Config) -> Callable[[], Readiness | None]:
    """What the endpoint says of itself; of one on a cluster that is elsewhere, that it is deployed."""
    return (lambda: Readiness(True)) if cluster_address() else partial(readiness_at, address(config))


class Ended(JethroError):
    """The Ray cluster that this process started did not start, or one of its processes ended."""


def _lost_process() -> str | None:
    """The first process of our own Ray that has ended."""
    from ray._private import worker

    node = worker._global_node if _home else None
    return next((str(kind) for kind, _ in node.dead_processes()), None) if node is not None else None


def _claim_the_end() -> None:
    """Only the first thread returns; the other waits while that one stops everything and ends the process."""
    if not _stopping.acquire(blocking=False):
        threading.Event().wait()


def _end_start(drain_s: float) -> None:
    """End a start, of which the main thread knows nothing: it may be in the middle of Ray's own."""
    _claim_the_end()
    if cluster_address():
        stop()
    elif _home:
        _home[-1].drain(drain_s)  # callers are answered a little before the start is over
    _end_at_once()


def _end_at_once() -> None:
    with _making:
        if _home:
            _home[-1].vanish()
        os._exit(0)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def why_failed(messages: Mapping[str, str]) -> str:
    """The last sentence of each failed deployment's message, a traceback as text: it says what to fix."""
    found = []
    for deployment, message in messages.items():
        if errors := [m for line in message.splitlines() if (m := _ERROR_LINE.match(line.strip()))]:
            found.append(f"{deployment} did not start: {errors[-1][1]}")
    return "\n".join(found)
