"""Series in promtool's notation (`0+6x60`: from 0, 6 more each minute): by alert that they make fire, and harmless."""

from typing import NamedTuple


class FiringCase(NamedTuple):
    """Series that make an alert fire; it does so at one minute, and no longer at the other."""

    series: dict[str, str]
    fires: int
    clears: int


def rising(each: int, minutes: int = 60, calm: int = 180) -> str:
    """A counter that rises for a while, then stays as it is."""
    return f"0+{each}x{minutes} {each * minutes}+0x{calm}"


def then(value: str, after: str, minutes: int = 60) -> str:
    """A gauge with one value, then another; `_`: there is no sample."""
    return f"{value}x{minutes} {after}x180"


_READY = 'kuberay_service_condition_ready{name="jethro",namespace="n",condition="true"}'
_UPGRADING = 'kuberay_service_condition_upgrade_in_progress{name="jethro",namespace="n",condition="true"}'
_TARGET = 'ray_serve_autoscaling_target_replicas{deployment="LargePool"}'
_HEALTHY_A = 'ray_serve_deployment_replica_healthy{deployment="LargePool",replica="a"}'
_HEALTHY_B = 'ray_serve_deployment_replica_healthy{deployment="LargePool",replica="b"}'
_USED = 'ray_node_mem_used{IsHeadNode="true",ray_io_cluster="c"}'
_TOTAL = 'ray_node_mem_total{IsHeadNode="true",ray_io_cluster="c"}'
_OK, _FAILED, _CUT, _REFUSED, _MISTAKE = (
    f'jethro_requests_total{{endpoint="chat",strategy="route",pool="small",code="{code}",status="{status}"}}'
    for code, status in (
        ("200", "completed"), ("500", "failed"), ("200", "failed"), ("429", "failed"), ("400", "failed"),
    )
)  # fmt: skip
_TTFT_10, _TTFT_30, _TTFT = (f'jethro_ttft_seconds_bucket{{pool="large",le="{le}"}}' for le in ("10", "30", "+Inf"))
_GAP_1, _GAP_10, _GAP = (f'jethro_itl_longest_seconds_bucket{{pool="large",le="{le}"}}' for le in ("1", "10", "+Inf"))
_FAST, _SLOW, _EVERY = (f'jethro_decision_seconds_bucket{{router="knn",le="{le}"}}' for le in ("0.005", "1", "+Inf"))
_UNSCORED = 'jethro_unscored_total{router="knn"}'
_DECIDED_SMALL, _DECIDED_LARGE = (
    f'jethro_decisions_total{{router="knn",strategy="route",pool="{p}",reason="{r}"}}'
    for p, r in (("small", "score_below"), ("large", "score_above"))
)
_DRIFT = 'jethro_router_drift{router="knn",signal="scores"}'
_ERROR, _RATINGS = (
    f'jethro_calibration_{k}{{strategy="route",router="knn",pool="small"}}' for k in ("error", "ratings")
)
_SPENT, _LARGE = (f'jethro_{k}_cost_usd_total{{strategy="cascade"}}' for k in ("answered", "always_large"))
_UP = 'jethro_pool_up{pool="large",gateway="g"}'
_RETRIES = 'jethro_retries_total{pool="large",reason="lost"}'
_LOST, _UNANSWERED = (f'jethro_stream_{k}_total{{stream="u"}}' for k in ("lost", "failed"))
_HITS, _MISSES, _EVICTIONS = (
    f'jethro_engine_adapter_{k}_total{{model="m",pool="small",replica="r"}}' for k in ("hits", "misses", "evictions")
)
_STEPS = 'jethro_engine_failed_steps_total{model="m",pool="small",replica="r"}'
_FALLBACKS = 'jethro_fallbacks_total{pool="small"}'
_HELD = 'ray_jethro_autoscaling_held{pool="large"}'

FIRING: dict[str, FiringCase] = {
    "JethroFailing": FiringCase({_FAILED: rising(3), _CUT: rising(3), _OK: "0+94x240"}, 20, 80),
    "JethroRefusing": FiringCase({_REFUSED: rising(9), _OK: "0+91x240"}, 30, 80),
    "JethroSlowFirstByte": FiringCase({_TTFT_10: "0+1x60 60+90x180", _TTFT_30: "0+90x240", _TTFT: "0+90x240"}, 40, 100),
    "JethroStreamsStall": FiringCase({_GAP_1: "0+1x60 60+90x180", _GAP_10: "0+90x240", _GAP: "0+90x240"}, 40, 100),
    "JethroPoolDown": FiringCase({_UP: then("0", "1")}, 20, 70),
    "JethroRetrying": FiringCase({_RETRIES: rising(30)}, 40, 90),
    "JethroSlowDecisions": FiringCase({_FAST: "0+1x60 60+90x180", _SLOW: "0+90x240", _EVERY: "0+90x240"}, 40, 100),
    "JethroUnscored": FiringCase(
        {_UNSCORED: rising(10), _DECIDED_SMALL: "0+60x240", _DECIDED_LARGE: "0+40x240"}, 50, 90
    ),
    "JethroFallingBack": FiringCase({_FALLBACKS: rising(60)}, 40, 90),
    "JethroDrift": FiringCase({_DRIFT: then("1", "0")}, 40, 70),
    "JethroMiscalibrated": FiringCase({_ERROR: then("0.3", "0.05"), _RATINGS: "150x240"}, 40, 70),
    "JethroNothingSaved": FiringCase({_SPENT: "0+12x120 1440+5x180", _LARGE: "0+10x300"}, 110, 250),
    "JethroDecisionsLost": FiringCase(
        {"jethro_store_dropped_total": rising(5), "jethro_store_failed_total": "0x240"}, 30, 90
    ),
    "JethroStoreAway": FiringCase({"jethro_store_away": then("1", "0")}, 20, 70),
    "JethroLearnerAway": FiringCase({"jethro_learner_away": then("1", "0")}, 20, 70),
    "JethroStreamLosing": FiringCase({_LOST: rising(2), _UNANSWERED: "0x240"}, 30, 90),
    "JethroEngineFailing": FiringCase({_STEPS: rising(1)}, 30, 90),
    "JethroAdapterThrashing": FiringCase({_EVICTIONS: rising(5), _HITS: "0+5x240", _MISSES: "0+5x240"}, 50, 100),
    "JethroSilent": FiringCase({"up": "1x240", "jethro_requests_in_flight": then("_", "1")}, 20, 70),
    "JethroAutoscalingHeld": FiringCase({_HELD: then("1", "0")}, 20, 70),
    "JethroNoCapacity": FiringCase({_TARGET: then("3", "1"), _HEALTHY_A: "1x240"}, 20, 70),
    "JethroNotReady": FiringCase({_READY: then("0", "1")}, 20, 70),
    "JethroUpgradeStuck": FiringCase({_UPGRADING: then("1", "0", 90)}, 80, 100),
    "JethroHeadMemory": FiringCase({_USED: then("90", "50"), _TOTAL: "100x240"}, 30, 70),
    "JethroControlPlaneSilent": FiringCase({"up": "1x240", "ray_cluster_active_nodes": then("_", "1")}, 20, 70),
}
"""By alert."""

HEALTHY = {
    _OK: "0+100x120",
    _FAILED: "0+0x120",
    _REFUSED: "0+1x120",
    _MISTAKE: "0+30x120",  # callers' mistakes, however many, are no failure
    _TTFT_10: "0+100x120",
    _TTFT: "0+100x120",
    _GAP_1: "0+100x120",
    _GAP: "0+100x120",
    _FAST: "0+100x120",
    _EVERY: "0+100x120",
    _UNSCORED: "0x120",
    _DECIDED_SMALL: "0+100x120",
    _DRIFT: "0x120",
    _ERROR: "0.4x120",  # of few ratings, which say nothing
    _RATINGS: "20x120",
    _SPENT: "0+4x120",
    _LARGE: "0+10x120",
    _UP: "1x120",
    _RETRIES: "0+1x120",
    _LOST: "0x120",
    _UNANSWERED: "0x120",
    _HITS: "0+9x120",
    _MISSES: "0+1x120",
    _EVICTIONS: "0+1x120",
    _STEPS: "0x120",
    _FALLBACKS: "0+1x120",
    "jethro_store_dropped_total": "0x120",
    "jethro_store_failed_total": "0x120",
    "jethro_store_away": "0x120",
    "jethro_learner_away": "0x120",
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
