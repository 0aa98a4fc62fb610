"""Environment variables that Ray and other libraries read; with `load`, the only code that touches the environment.

A config file may take a value from the environment, in the shell's own forms. A value that is nothing but `${NAME}` is
the variable's; `${NAME:-value}` has a default, which may be empty (null); `${NAME:?sentence}` says what to do where it
is not set; `${NAME:+value}` is that value where it is set, else null. An empty variable counts as not set. Only whole
values are read so: a text that contains `${...}` stays as it is.
"""

import os
import random
import re
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path, PurePath
from typing import Any, Final

from serve_app.errors import ConfigError
from serve_app.front.settings import BINARY, FOLDER, PROGRAM

SERVE_ENVIRONMENT = {
    # HAProxy in front of the replicas, and Serve's one-loop replicas: together worth a factor of ten
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # one line and one parse per request more, for figures that the Gateway reports better
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # a replica that stops is held this long so that HAProxy takes it out first
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # a busy or small machine may take longer than Ray's defaults to start its processes
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # three consecutive failures, and Serve starts another manager of HAProxy
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "4",
    # with checks of 1 s (front/haproxy.py), a Gateway that is stopped is out of service within 3 s
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "500ms",
    # a Gateway that dies before it answered is replaced by another; the request must fit the buffer
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "2",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    # after a change of the Gateways: requests of the time before may take as long as any
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
    # without the first, files of the workers' stderr, request log included, grow without bound
    "RAY_ROTATION_MAX_BYTES": str(32 * 2**20),
    "RAY_ROTATION_BACKUP_COUNT": "3",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

_PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "120",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    "RAY_raylet_client_connect_timeout_milliseconds": "10000",
}
"""Limits of a start on a machine that does much else: a dozen processes start at once, and each waits for another."""

_OF_TOOLS = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "TMPDIR")
"""Variables that a tool's process gets; a key is none of them."""


def tool_environment() -> dict[str, str]:
    """The environment of a process that runs a tool for a model: enough to find Python, and no secret."""
    return {key: os.environ[key] for key in _OF_TOOLS if key in os.environ}


_INGRESS = ("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT")
"""Ports of Gateways, to which HAProxy sends. Serve announces a port to HAProxy before it has bound it: where two
endpoints of one machine draw from the same ports, one's callers have reached the other's Gateway."""
_BLOCK = 100
_BLOCKS = range(20_000, 30_000, _BLOCK)
"""Above the ports of Ray's workers (from 10,002) and below those that the kernel hands out (from 32,768)."""
_PROBED = 8


def prepare_serve_environment(
    env: MutableMapping[str, str] | None = None, *, home: Path | None = None, niceness: int = 0
) -> None:
    """Set the variables that are not set yet. To be called before ray is imported: it reads these at import.

    `home`: the endpoint's own folder, for a Ray that this process starts on its own and that no other node joins.
    `niceness` of Ray's workers, which Ray would run at 15: behind everything else on the machine.
    """
    env = os.environ if env is None else env
    settings = SERVE_ENVIRONMENT | {"RAY_worker_niceness": str(niceness)}
    for name, value in (settings | ({} if home is None else _own(home))).items():
        env.setdefault(name, value)
    if home is None:
        return
    env[FOLDER] = str(home)
    env.update(front_variables(home / PROGRAM, home))  # never another HAProxy than ours; it starts the operator's
    if not any(name in env for name in _INGRESS):
        first = _free_block()
        for name, port in zip(_INGRESS, (first, first + _BLOCK - 1), strict=True):
            env[name] = str(port)


def model_cache(env: Mapping[str, str] | None = None) -> Path:
    """Folder of the models that are taken from packages: JETHRO_MODELS, or `jethro/models` in the user's cache."""
    env = os.environ if env is None else env
    if chosen := env.get("JETHRO_MODELS", "").strip():
        return Path(chosen).expanduser().absolute()
    cache = env.get("XDG_CACHE_HOME", "").strip()
    return (Path(cache) if cache else Path.home() / ".cache") / "jethro" / "models"


def leave_home() -> None:
    """The endpoint's folder is to go."""
    os.environ.pop(FOLDER, None)


def _own(home: Path) -> dict[str, str]:
    """Variables of a cluster of one: its own folder, ports that no second endpoint of the machine has, its own token.

    Ray's memory monitor judges the whole machine: another program that fills it would cost us controller, Gateway, and
    pool together.
    """
    return _PATIENCE | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the node has the loopback address, as on desktop systems
        "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread of a start that failed must not start another Ray
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "ray-token"),
        "RAY_memory_monitor_refresh_ms": "0",
        # Ray's own metrics: a port that answers anybody, and a process busy with collecting them
        "RAY_enable_metrics_collection": "0",
        # Ray's monitors say a few figures on fixed ports, the same for every endpoint of a machine
        "AUTOSCALER_METRIC_PORT": "0",
        "DASHBOARD_METRIC_PORT": "0",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
    }


def front_variables(program: PurePath, folder: PurePath) -> dict[str, str]:
    """Serve starts `program`, the front, in HAProxy's place, and keeps HAProxy's files in `folder`."""
    return {
        BINARY: str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "serve.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "s.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m.dgram"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _free_block() -> int:
    """The first port of a block that no other endpoint of this machine uses, drawn so that two rarely try the same."""
    blocks = list(_BLOCKS)
    random.shuffle(blocks)
    return next((first for first in blocks if all(_bindable(first + i) for i in range(_PROBED))), blocks[0])


def _bindable(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def cluster_address(env: Mapping[str, str] | None = None) -> str | None:
    """The Ray cluster to join, by Ray's own variable; None: start one of our own."""
    return (os.environ if env is None else env).get("RAY_ADDRESS") or None


def export(variables: Mapping[str, str]) -> None:
    """Set environment variables for this process and its children. What the operator has set stays as it is."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


_FORM: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<how>[-?+])(?P<rest>[^}]*))?\}")


def expanded(where: str, tree: Any, env: Mapping[str, str]) -> Any:
    """The tree with variables in place. Raises ConfigError with all that are not set, one a line."""
    missing: dict[str, None] = {}
    found = _expanded(tree, env, missing, ())
    if missing:
        raise ConfigError("\n".join(f"{where}: {said}" for said in missing))
    return found


def _expanded(node: Any, env: Mapping[str, str], missing: dict[str, None], path: tuple[str, ...]) -> Any:
    """One node; `missing` collects sentences, each once."""
    if isinstance(node, dict):
        return {key: _expanded(value, env, missing, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list):
        return [_expanded(value, env, missing, (*path, str(i))) for i, value in enumerate(node)]
    form = _FORM.fullmatch(node) if isinstance(node, str) else None
    if form is None:
        return node
    value, how, rest = env.get(form["name"], "").strip(), form["how"], form["rest"]
    if how == "+":
        return (rest or None) if value else None
    if value:
        return value
    if how == "-":
        return rest or None
    missing[rest or f"{'.'.join(path)}: environment variable {form['name']} is not set; export it"] = None
    return None
