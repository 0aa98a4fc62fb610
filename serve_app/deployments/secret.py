"""The secret between Gateways and pool replicas: made once per Ray cluster, held in its internal key-value store.

It is no part of an application's arguments, so that redeploying the same config restarts nothing and no dashboard
shows it.
"""

import secrets

from ray.experimental import internal_kv

_KEY = b"jethro:cluster-secret"


def cluster_secret() -> str:
    """The cluster's secret; the first to ask makes it."""
    internal_kv._internal_kv_put(_KEY, secrets.token_urlsafe(32).encode(), overwrite=False)
    value: bytes = internal_kv._internal_kv_get(_KEY)
    return value.decode()
