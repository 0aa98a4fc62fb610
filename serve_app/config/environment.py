"""What Ray must find in the environment before it starts; the only place that writes it."""

import os
import socket
from collections.abc import Mapping, MutableMapping

SERVE_ENVIRONMENT = {
    # HAProxy in front of the replicas, and Serve's one-loop replicas: together worth a factor of ten
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # one line and one parse per request more, for figures that the Gateway gives better
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


def prepare_serve_environment(env: MutableMapping[str, str] | None = None, *, loopback: bool = False) -> None:
    """Set what is not set already. To be called before ray is imported: it reads these at import.

    `loopback`: for a Ray that this process starts on its own and that no other node joins.
    """
    env = os.environ if env is None else env
    for name, value in (SERVE_ENVIRONMENT | (_LOOPBACK_ONLY if loopback else {})).items():
        env.setdefault(name, value)
    if loopback:
        # fixed ports of Serve's HAProxy, which a second endpoint on this machine would find taken
        for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"):
            env.setdefault(name, str(_free_port()))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def cluster_address(env: Mapping[str, str] | None = None) -> str | None:
    """The Ray cluster to join, by Ray's own variable; None: start one of our own."""
    return (os.environ if env is None else env).get("RAY_ADDRESS") or None
