"""What Ray must find in the environment before it starts; the only place that writes it."""

import os
from collections.abc import MutableMapping

SERVE_ENVIRONMENT = {
    # HAProxy in front of the replicas, and Serve's one-loop replicas: together worth a factor of ten
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # a replica that stops is held this long so that HAProxy takes it out first
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare_serve_environment(env: MutableMapping[str, str] | None = None) -> None:
    """Set what is not set already. To be called before ray.serve is imported: it reads these at import."""
    env = os.environ if env is None else env
    for name, value in SERVE_ENVIRONMENT.items():
        env.setdefault(name, value)
