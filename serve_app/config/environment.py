"""Environment variables that Ray and other libraries read; with `load`, the only code that touches the environment."""

import os
import random
import socket
from collections.abc import Mapping, MutableMapping

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
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

# A cluster of one: Ray gives its node the loopback address, as it does on desktop systems, so that replicas' ports
# cannot be reached from elsewhere.
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

_INGRESS = ("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT")
"""Ports of Gateways, to which HAProxy sends. Serve announces a port to HAProxy before it has bound it: where two
endpoints of one machine draw from the same ports, one's callers have reached the other's Gateway."""
_BLOCK = 100
_BLOCKS = range(20_000, 30_000, _BLOCK)
"""Above the ports of Ray's workers (from 10,002) and below those that the kernel hands out (from 32,768)."""
_PROBED = 8


def prepare_serve_environment(env: MutableMapping[str, str] | None = None, *, loopback: bool = False) -> None:
    """Set the variables that are not set yet. To be called before ray is imported: it reads these at import.

    `loopback`: for a Ray that this process starts on its own and that no other node joins.
    """
    env = os.environ if env is None else env
    for name, value in (SERVE_ENVIRONMENT | (_LOOPBACK_ONLY if loopback else {})).items():
        env.setdefault(name, value)
    if loopback:
        # fixed ports of Serve's HAProxy, which would clash with a second endpoint on this machine
        for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"):
            env.setdefault(name, str(_free_port()))
        if not any(name in env for name in _INGRESS):
            first = _free_block()
            for name, port in zip(_INGRESS, (first, first + _BLOCK - 1), strict=True):
                env[name] = str(port)


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
