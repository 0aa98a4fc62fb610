"""Series in promtool's notation (`0+6x60`: from 0, 6 more each minute): by alert that they make fire, and harmless."""

_READY = 'kuberay_service_condition_ready{name="jethro",namespace="n",condition="true"}'
_UPGRADING = 'kuberay_service_condition_upgrade_in_progress{name="jethro",namespace="n",condition="true"}'
_TARGET = 'ray_serve_autoscaling_target_replicas{deployment="LargePool"}'
_HEALTHY_A = 'ray_serve_deployment_replica_healthy{deployment="LargePool",replica="a"}'
_HEALTHY_B = 'ray_serve_deployment_replica_healthy{deployment="LargePool",replica="b"}'
_USED = 'ray_node_mem_used{IsHeadNode="true",ray_io_cluster="c"}'
_TOTAL = 'ray_node_mem_total{IsHeadNode="true",ray_io_cluster="c"}'
_OK, _FAILED, _REFUSED = (f'jethro_requests_total{{status="{status}"}}' for status in (200, 500, 429))
_TTFT_10, _TTFT_30, _TTFT = (f'jethro_ttft_seconds_bucket{{pool="large",le="{le}"}}' for le in ("10", "30", "+Inf"))
_UNSCORED = 'jethro_unscored_total{router="knn"}'
_DECIDED_SMALL, _DECIDED_LARGE = (f'jethro_decisions_total{{router="knn",pool="{p}"}}' for p in ("small", "large"))
_DRIFT = 'jethro_router_drift{router="knn",signal="score"}'
_HELD = 'ray_jethro_autoscaling_held{pool="large"}'

FIRING: dict[str, tuple[dict[str, str], int]] = {
    "JethroFailing": ({_FAILED: "0+6x60", _OK: "0+94x60"}, 20),
    "JethroRefusing": ({_REFUSED: "0+9x60", _OK: "0+91x60"}, 30),
    "JethroSlowFirstByte": ({_TTFT_10: "0+1x60", _TTFT_30: "0+90x60", _TTFT: "0+90x60"}, 40),
    "JethroUnscored": ({_UNSCORED: "0+10x60", _DECIDED_SMALL: "0+60x60", _DECIDED_LARGE: "0+40x60"}, 50),
    "JethroFallingBack": ({'jethro_fallbacks_total{pool="small"}': "0+60x60"}, 40),
    "JethroDrift": ({_DRIFT: "1x60"}, 40),
    "JethroDecisionsLost": ({"jethro_store_dropped_total": "0+5x60", "jethro_store_failed_total": "0x60"}, 30),
    "JethroSilent": ({"up": "1x60"}, 20),
    "JethroAutoscalingHeld": ({_HELD: "1x60"}, 20),
    "JethroNoCapacity": ({_TARGET: "3x60", _HEALTHY_A: "1x60"}, 20),
    "JethroNotReady": ({_READY: "0x60"}, 20),
    "JethroUpgradeStuck": ({_UPGRADING: "1x90"}, 80),
    "JethroHeadMemory": ({_USED: "90x60", _TOTAL: "100x60"}, 30),
    "JethroControlPlaneSilent": ({"up": "1x60"}, 20),
}
"""Alert to the series and the minute at which it fires."""

HEALTHY = {
    _OK: "0+100x120",
    _FAILED: "0+0x120",
    _REFUSED: "0+1x120",
    _TTFT_10: "0+100x120",
    _TTFT: "0+100x120",
    _UNSCORED: "0x120",
    _DECIDED_SMALL: "0+100x120",
    _DRIFT: "0x120",
    "jethro_store_dropped_total": "0x120",
    "jethro_store_failed_total": "0x120",
    "jethro_requests_in_flight": "3x120",
    _HELD: "0x120",
    _TARGET: "2x120",
    _HEALTHY_A: "1x120",
    _HEALTHY_B: "1x120",
    _READY: "1x120",
    _UPGRADING: "0x120",
    _USED: "50x120",
    _TOTAL: "100x120",
    "ray_cluster_active_nodes": "3x120",
}
