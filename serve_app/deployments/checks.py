"""What keeps a config from being served on this machine, found in seconds and before Ray starts: all of it at once.

`jethro config check` and `jethro serve` call this one function. It loads what a Gateway loads, over pools that are only
described, and asks of files, folders, ports, packages and devices what the processes of the endpoint will need. Nothing
is changed, no model is loaded, and no upstream is called: that is `pools/inspection.py`.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path

from serve_app.config import Config, secret
from serve_app.config.environment import cluster_address
from serve_app.config.load import trace_export
from serve_app.engines.factory import preflight
from serve_app.errors import ConfigError, JethroError
from serve_app.files import unwritable
from serve_app.front.settings import bundled_haproxy
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.preview import described
from serve_app.gateway.services import caller_keys, operator_keys
from serve_app.routing.serving.loading import Loader
from serve_app.routing.serving.scoring_service import required_replicas
from serve_app.store.reading import check_usable
from serve_app.streams.checkpoint import check_folder

LONGEST_HOME = 30
"""Of the endpoint's folder, in bytes: Ray and HAProxy put sockets in it, whose whole path may have 107."""
HOME_PREFIX = "jethro-"
_DRAWN = 8
"""Characters that `tempfile` adds to the prefix."""
_GPU_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Where Linux shows GPUs of NVIDIA and AMD, and those of a Windows host."""


@dataclass(slots=True)
class StartReport:
    """`problems` keep the config from being served, `warnings` do not; each names key, value and fix."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def require(self, source: str = "") -> None:
        """Raises ConfigError with all problems, one a line; `source` is the file that has them."""
        if self.problems:
            raise ConfigError("\n".join(f"{source}: {line}" if source else line for line in self.problems))


def check_start(config: Config, *, own_engines: bool = False) -> StartReport:
    """What would stop a start of the config here and now. `own_engines`: the caller brings engines of its own.

    On a Ray cluster (RAY_ADDRESS) files, ports and devices are those of its nodes, and only secrets are looked at.
    """
    report = StartReport()
    with _noted(report):
        check_secrets(config)
    with _noted(report):
        check_traces(config)
    if cluster_address():
        return report
    engines = {} if own_engines else config.pools
    checks: list[Callable[[], object]] = [
        partial(check_port, config),
        check_temporary_folder,
        bundled_haproxy,
        partial(check_usable, config.store.path),
        *(partial(preflight, name, pool, config.adapters) for name, pool in engines.items()),
        partial(_check_streams, config, report),
        partial(_check_strategies, config, report),
        partial(_check_machine, config),
    ]
    for check in checks:
        with _noted(report):
            check()
    return report


def check_secrets(config: Config) -> None:
    """Raises ConfigError, a line for each, unless every secret that the config refers to is set and no two are one."""
    report = StartReport()
    for env, key in config.secrets().items():
        with _noted(report):
            secret(env, used_by=key)
    report.require()
    operator_keys(config.server, caller_keys(config.server.keys))


def check_traces(config: Config) -> None:
    """Raises ConfigError if traces are on and OpenTelemetry's variables name an exporter that is not there."""
    if config.log.traces.enabled:
        trace_export()


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


def check_temporary_folder() -> None:
    """The endpoint's own folder can be made, with a path short enough for sockets. Raises ConfigError."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) + 1 + len(HOME_PREFIX) + _DRAWN > LONGEST_HOME:
        raise ConfigError(f"TMPDIR: {folder} is too long for sockets below it; use /tmp")
    if (why := unwritable(Path(folder))) is not None:
        raise ConfigError(f"TMPDIR: {folder} cannot be used ({why}); use /tmp")


def check_resources(config: Config, have: Mapping[str, float]) -> None:
    """Raises ConfigError, a line each, if a config needs more CPUs or GPUs than there are: it would wait forever."""
    report = StartReport()
    for resource in ("CPU", "GPU"):
        key = f"num_{resource.lower()}s"
        need = config.gateway.replicas * config.gateway.num_cpus if resource == "CPU" else 0.0
        need += sum(p.replicas.min * getattr(p.resources, key) for p in config.pools.values() if not p.remote)
        need += required_replicas(config) * getattr(config.scorer.resources, key)
        need += config.streams.num_cpus if resource == "CPU" and config.streams.enabled else 0.0
        if need > have.get(resource, 0.0) + 1e-9:
            report.problems.append(
                f"the config requires {need:g} {resource}s (gateway.num_cpus, pools.*.replicas × resources.{key}, "
                f"scorer, streams) and there are {have.get(resource, 0.0):g}: lower {key} or the replicas, or add nodes"
            )
    report.require()


def _check_machine(config: Config) -> None:
    """Against the most that Ray can find here: fewer CPUs where the process is bounded, and it counts GPUs itself."""
    gpus = any(Path(device).exists() for device in _GPU_DEVICES)
    if _scorer_replicas(config) is not None:
        check_resources(config, {"CPU": float(os.cpu_count() or 1), "GPU": inf if gpus else 0.0})


def _scorer_replicas(config: Config) -> int | None:
    """None where the default router cannot be read: the check of the strategies says so."""
    try:
        return required_replicas(config)
    except JethroError:
        return None


def _check_streams(config: Config, report: StartReport) -> None:
    if config.streams.enabled:
        report.warnings += check_folder(Path(config.streams.folder))


def _check_strategies(config: Config, report: StartReport) -> None:
    """Load routers and chains as a Gateway does. Raises ConfigError or DependencyError."""
    loader = Loader.from_config(config, _NoScorer() if _scorer_replicas(config) else None, check_only=True)
    try:
        with _quiet():
            found = loader.load()
            catalogue = Catalogue(config, described(config), found, load_router=loader.pinned)
    finally:
        loader.close()
    report.warnings += catalogue.statements
    report.warnings += [f"router {name} is left out: {why}" for name, why in found.refused.items()]


class _NoScorer:
    """In the Scorer's place while nothing is scored: it would load the weights in its own process."""

    async def score(self, source: str, version: str, text: str) -> float:
        """Raises ConfigError."""
        raise ConfigError(f"router {source} scores in the Scorer, which does not run here")

    async def explain(self, source: str, version: str, text: str) -> Mapping[str, float]:
        """Raises ConfigError."""
        raise ConfigError(f"router {source} scores in the Scorer, which does not run here")

    def prepare(self, source: str, version: str) -> None:
        """Its folder was checked, and its weights are the Scorer's."""


@contextmanager
def _noted(report: StartReport) -> Iterator[None]:
    try:
        yield
    except JethroError as e:
        report.problems += str(e).splitlines()


@contextmanager
def _quiet() -> Iterator[None]:
    """What is logged while routers load is in the report, or is of no use before a start."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
