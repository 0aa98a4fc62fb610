"""Every metric: name, type, unit, labels with their bounds, and meaning. Nothing is exported that is not defined here.

Names are as Prometheus shows them but for the endings that its types add: counters `_total`, histograms `_bucket`,
`_sum` and `_count`. A label's values are bounded: LABELS says by what. Instruments are made in `instruments.py`, and
filled by the Recorder and the engines; dashboards, alert rules and the reference page are checked against this file.

This module imports nothing heavy: Serve's controller and the command line read it too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

from serve_app.types import Cause

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["gateway", "engine", "ray"]


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric. `unit`: of its values; `buckets`: upper bounds, of a histogram.

    `source`: the Gateways, the engines in the replicas, or Ray's own export, where it has the prefix `ray_`.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    meaning: str
    source: Source = "gateway"
    buckets: tuple[float, ...] = ()

    @property
    def shown(self) -> str:
        """The name of the family as Prometheus shows it."""
        prefix = "ray_" if self.source == "ray" else ""
        return f"{prefix}{self.name}_total" if self.kind == "counter" else f"{prefix}{self.name}"

    @property
    def series(self) -> tuple[str, ...]:
        """The names by which queries find it."""
        if self.kind == "histogram":
            return tuple(f"{self.shown}_{end}" for end in ("bucket", "sum", "count"))
        return (self.shown,)

    @property
    def shown_labels(self) -> tuple[str, ...]:
        """Its labels, those included that are added on the way: of `/metrics`, of buckets."""
        added = {"gateway": ("gateway",), "engine": ("pool", "replica"), "ray": ()}[self.source]
        return (*self.labels, *added, *(("le",) if self.kind == "histogram" else ()))


@dataclass(frozen=True, slots=True)
class ForeignMetric:
    """A metric of another program that dashboards and alerts use. `labels`: those they may name."""

    name: str
    labels: tuple[str, ...]
    meaning: str
    source: str


Labels = tuple[str, ...]
Buckets = tuple[float, ...]


def _counter(name: str, unit: str, labels: Labels, meaning: str) -> MetricDefinition:
    return MetricDefinition(name, "counter", unit, labels, meaning)


def _gauge(name: str, unit: str, labels: Labels, meaning: str, source: Source = "gateway") -> MetricDefinition:
    return MetricDefinition(name, "gauge", unit, labels, meaning, source)


def _histogram(name: str, unit: str, labels: Labels, meaning: str, buckets: Buckets) -> MetricDefinition:
    return MetricDefinition(name, "histogram", unit, labels, meaning, buckets=buckets)


_DECIDE_S: Final = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 1.0)
"""Feature routers decide in well under 1 ms, encoder routers in under 5 ms."""
_LATENCY_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0),
)
_TOKEN_S: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_GAP_S: Final = (*_TOKEN_S, 2.5, 5.0, 10.0, 30.0)
_SHARE: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Of probabilities: finer below one half, where thresholds usually are."""
_RATING: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STEP_S: Final = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4)
_LOAD_S: Final = (0.001, *_STEP_S[2:], 8)

_HOW: Final = ("endpoint", "strategy", "pool")
_POOL, _ROUTER, _STREAM, _SIGNAL = ("pool",), ("router",), ("stream",), ("router", "signal")

# Requests.
IN_FLIGHT = _gauge("jethro_requests_in_flight", "requests", (), "Requests being answered")
REQUESTS = _counter("jethro_requests", "requests", (*_HOW, "code", "status"), "Requests that ended")
REFUSALS = _counter(
    "jethro_refusals",
    "requests",
    ("code",),
    "Requests that were refused, by the error's code: a mistake of the caller, no permission, or no room",
)
CLIENT_RETRIES = _counter("jethro_client_retries", "requests", (), "Requests that a client's SDK sent again")
UNAUTHORIZED = _counter("jethro_unauthorized", "requests", (), "Requests with no key or a wrong one; also refusals")
E2E = _histogram("jethro_e2e_seconds", "seconds", _HOW, "Arrival to last byte, of completed requests", _LATENCY_S)
TTFT = _histogram("jethro_ttft_seconds", "seconds", _HOW, "Arrival to first byte", _LATENCY_S)
TPOT = _histogram(
    "jethro_tpot_seconds", "seconds", _POOL, "Time per output token after the first, of streams", _TOKEN_S
)
ITL = _histogram(
    "jethro_itl_seconds",
    "seconds",
    _POOL,
    "Mean time between the pieces of a stream as the caller received them, once per stream",
    _TOKEN_S,
)
ITL_LONGEST = _histogram(
    "jethro_itl_longest_seconds",
    "seconds",
    _POOL,
    "Longest time between two pieces of a stream, once per stream",
    _GAP_S,
)
LAYER = _histogram(
    "jethro_layer_seconds",
    "seconds",
    ("layer",),
    "Time spent in one layer before the first byte: parse, decide, pool",
    (*_DECIDE_S, 10.0, 60.0, 600.0),
)

# Decisions.
DECISION = _histogram(
    "jethro_decision_seconds", "seconds", _ROUTER, "Time of one decision: the overhead of deciding", _DECIDE_S
)
DECISIONS = _counter(
    "jethro_decisions",
    "decisions",
    ("router", "strategy", "pool", "reason"),
    "Decisions by the pool that answers and why",
)
SCORE = _histogram("jethro_score", "probability", _ROUTER, "Scores of the router: the strong win rate", _SHARE)
UNSCORED = _counter("jethro_unscored", "decisions", _ROUTER, "Decisions without a score: the strong pool was called")
CONFIDENCE = _histogram(
    "jethro_confidence",
    "probability",
    ("strategy", "pool"),
    "Confidence in the answers that a cascade or an orchestration checked: the probability of being correct",
    _SHARE,
)
TASKS = _counter(
    "jethro_tasks", "decisions", ("task", "pool"), "Tasks that orchestration recognized, by the pool that answers"
)
FALLBACKS = _counter("jethro_fallbacks", "answers", _POOL, "Answers by another pool since this one failed")
ESCALATIONS = _counter("jethro_escalations", "answers", _POOL, "Answers rejected for low confidence and replaced")

# Tokens and money.
TOKENS = _counter("jethro_tokens", "tokens", (*_POOL, "direction"), "Tokens read and written")
WASTED = _counter("jethro_wasted_tokens", "tokens", _POOL, "Tokens of calls that are in no answer")
WASTED_USD = _counter("jethro_wasted_cost_usd", "US dollars", _POOL, "Cost of calls that are in no answer")
COST = _counter("jethro_cost_usd", "US dollars", _POOL, "Cost of all calls")
ANSWERED_USD = _counter(
    "jethro_answered_cost_usd",
    "US dollars",
    ("strategy",),
    "Cost of the completed requests, wasted calls included; what was saved is jethro_always_large_cost_usd less this",
)
LARGE_USD = _counter(
    "jethro_always_large_cost_usd",
    "US dollars",
    ("strategy",),
    "What the completed requests would have cost at the pool large, if it had read the same prompt and written as many "
    "tokens as the answer has",
)

# Quality.
FEEDBACK = _counter("jethro_feedback", "ratings", (), "Feedback stored")
RATING = _histogram("jethro_feedback_score", "score", ("strategy", "pool"), "Scores that callers gave answers", _RATING)
CALIBRATION = _gauge(
    "jethro_calibration_error",
    "probability",
    ("strategy", "router", "pool"),
    "Expected calibration error: mean distance of the expected quality from the callers' scores, over the last 1,000",
)
CALIBRATION_SIZE = _gauge(
    "jethro_calibration_ratings",
    "ratings",
    ("strategy", "router", "pool"),
    "Scores that the calibration error is computed from; below 100 it says little",
)

# Guards.
FINDINGS = _counter(
    "jethro_guard_findings", "findings", ("guard", "category"), "Findings of guards, and of personal data by placement"
)
GUARD_REFUSALS = _counter("jethro_guard_refusals", "requests", ("where",), "Requests that guards refused")

# Pools, as each Gateway sees them.
POOL_UP = _gauge("jethro_pool_up", "1 or 0", _POOL, "1 while the pool answers, or may be without replicas")
POOL_REPLICAS = _gauge("jethro_pool_replicas", "replicas", _POOL, "Replicas to choose from")
POOL_IN_FLIGHT = _gauge(
    "jethro_pool_in_flight", "calls", _POOL, "Calls from this Gateway that are open: the sum over Gateways is all"
)
POOL_QUEUE = _gauge(
    "jethro_pool_waiting",
    "calls",
    _POOL,
    "Other calls that the replicas last reported, running or queued: take the largest of the Gateways, not the sum",
)
POOL_PLACES = _gauge("jethro_pool_places", "calls", _POOL, "Calls that the replicas serve at once; 0: unknown")
RETRIES = _counter(
    "jethro_retries",
    "calls",
    (*_POOL, "reason"),
    "Calls that were sent again, to another replica or the same one: full, draining, lost, slow, failed",
)
REPAIRS = _counter(
    "jethro_upstream_repairs",
    "repairs",
    (*_POOL, "what"),
    "Odd parts of upstreams' answers that were repaired or left out, by what they were: json, usage, encoding",
)

# The store of decisions.
STORE_QUEUED = _gauge("jethro_store_queued", "decisions", (), "Decisions waiting for the writer")
STORE_DROPPED = _counter("jethro_store_dropped", "decisions", (), "Decisions lost: the queue was full")
STORE_FAILED = _counter("jethro_store_failed", "decisions", (), "Decisions lost: the write failed")
STORE_RESTARTS = _counter("jethro_store_restarts", "times", (), "Times the lost or damaged file was replaced")
STORE_AWAY = _gauge("jethro_store_away", "1 or 0", (), "1: no usable file, decisions wait in memory")

# Routers in service.
ROUTER = _gauge("jethro_router", "1", (*_ROUTER, "version"), "1 for the version in service")
ROUTER_THRESHOLD = _gauge("jethro_router_threshold", "probability", _ROUTER, "Strong if the score is at least")
ROUTER_SHARE = _gauge(
    "jethro_router_share",
    "share",
    _ROUTER,
    "Routed share: scores at or above the threshold among the last 1,000, which call the strong pool",
)
ROUTER_SHARE_EXPECTED = _gauge(
    "jethro_router_share_expected", "share", _ROUTER, "The same share of the calibration data"
)
ROUTER_SWAPS = _counter("jethro_router_swaps", "versions", _ROUTER, "Versions taken into service")
ROUTER_REFUSALS = _counter("jethro_router_refusals", "versions", _ROUTER, "Versions that could not be loaded")
DRIFT = _gauge("jethro_router_drift", "1 or 0", _SIGNAL, "1 while live traffic has drifted")
DRIFT_STATISTIC = _gauge("jethro_router_drift_statistic", "by signal", _SIGNAL, "Distance from calibration data")
DRIFT_LIMIT = _gauge("jethro_router_drift_limit", "by signal", _SIGNAL, "Distance that counts as drift")

# Streams and their Learner.
STREAM_COUNTS: Final = {
    key: _counter(f"jethro_stream_{key}", unit, _STREAM, meaning)
    for key, unit, meaning in (
        ("queries", "queries", "Queries acted on"),
        ("llm_calls", "queries", "Queries that went to the LLM"),
        ("unparsed", "answers", "LLM answers that parsed to no label"),
        ("lost", "events", "Events that a Gateway had no room for"),
        ("failed", "queries", "Queries that went to the LLM and got no answer"),
        ("refused", "events", "Events that could not be learned from"),
        ("corrupt", "files", "Checkpoints and journal lines that could not be read"),
    )
}
"""By the key of the Learner's counts."""
STREAM_DRIFT = _counter("jethro_stream_drift_alarms", "alarms", _STREAM, "Changes of the LLM's labels")
STREAM_SHARE = _gauge("jethro_stream_share", "share", ("stream", "level"), "Share of queries by level")
STREAM_AGREEMENT = _gauge("jethro_stream_agreement", "share", _STREAM, "Audited answers that were the LLM's, of late")
STREAM_LEVEL_AGREEMENT = _gauge(
    "jethro_stream_level_agreement",
    "share",
    ("stream", "level"),
    "Labels of a level that were the LLM's, before they were learned, of late",
)
STREAM_LABELS = _counter("jethro_stream_labels", "labels", _STREAM, "Labels learned from the LLM")
STREAM_WARMING = _gauge("jethro_stream_warming_up", "1 or 0", _STREAM, "1 while every query goes to the LLM")
STREAM_PRICE = _gauge(
    "jethro_stream_price", "loss", _STREAM, "Price of an LLM call, in units of the loss, that keeps the budget"
)
STREAM_VERSION = _gauge("jethro_stream_version", "version", _STREAM, "Version of the policy in use")
LEARNER_WAITING = _gauge("jethro_learner_waiting", "events", (), "Events not yet learned")
LEARNER_AWAY = _gauge("jethro_learner_away", "1 or 0", (), "1: the last request got no answer")


def _engine(name: str, kind: Kind, unit: str, meaning: str, buckets: tuple[float, ...] = ()) -> MetricDefinition:
    return MetricDefinition(f"jethro_engine_{name}", kind, unit, ("model",), meaning, "engine", buckets)


# The transformers engine, and the adapters of either engine.
ENGINE_RUNNING = _engine("running_sequences", "gauge", "sequences", "Sequences in the batch")
ENGINE_WAITING = _engine("waiting_sequences", "gauge", "sequences", "Sequences that wait for a row")
ENGINE_PROMPT = _engine("prompt_tokens", "counter", "tokens", "Prompt tokens read")
ENGINE_GENERATED = _engine("generated_tokens", "counter", "tokens", "Tokens written")
ENGINE_FAILED = _engine("failed_steps", "counter", "steps", "Steps that raised an error")
ENGINE_ROWS = _engine("batch_rows", "histogram", "rows", "Rows of a decoding step", _ROWS)
ENGINE_DECODE = _engine(
    "decode_seconds",
    "histogram",
    "seconds",
    "Time of a decoding step: every sequence in the batch gains one token",
    _STEP_S,
)
ENGINE_PREFILL = _engine("prefill_seconds", "histogram", "seconds", "Time of a pass that reads prompts", _STEP_S)
ADAPTER_HITS = _engine("adapter_hits", "counter", "requests", "Requests whose adapter was in memory")
ADAPTER_MISSES = _engine("adapter_misses", "counter", "requests", "Requests that waited for their adapter")
ADAPTER_LOADS = _engine("adapter_loads", "counter", "adapters", "Adapters loaded")
ADAPTER_FAILURES = _engine("adapter_failures", "counter", "adapters", "Adapters that could not be loaded")
ADAPTER_EVICTIONS = _engine("adapter_evictions", "counter", "adapters", "Adapters that left the memory")
ADAPTERS = _engine("adapters", "gauge", "adapters", "Adapters in memory")
ADAPTER_BYTES = _engine("adapter_bytes", "gauge", "bytes", "Size of the adapters in memory")
ADAPTER_LOAD = _engine("adapter_load_seconds", "histogram", "seconds", "Time to load an adapter", _LOAD_S)

# Made in Serve's controller; Ray exports them.
SCALING_TARGET = _gauge("jethro_autoscaling_target", "replicas", _POOL, "Target of the policy", "ray")
SCALING_HELD = _gauge("jethro_autoscaling_held", "1 or 0", _POOL, "1 while reports are missing or stale", source="ray")

_OPERATOR: Final = "KubeRay 1.7's operator, with metrics.enabled and metrics.serviceMonitor.enabled in its chart"
_RAY: Final = "Ray, on port 8080 of each node"
_VLLM: Final = "vLLM, in the scrape of the Gateways"
_NODE, _DEPLOYMENT = ("IsHeadNode", "ray_io_cluster", "instance"), ("deployment", "application")
_SERVICE, _MODEL = ("name", "namespace", "condition"), ("model_name", "pool", "replica")
FOREIGN: Final = (
    ForeignMetric("ray_cluster_active_nodes", ("node_type", "ray_io_cluster"), "Nodes of the cluster", _RAY),
    ForeignMetric("ray_node_cpu_utilization", _NODE, "Per cent of a node's CPUs", _RAY),
    ForeignMetric("ray_node_mem_used", _NODE, "Bytes of a node's memory in use", _RAY),
    ForeignMetric("ray_node_mem_total", _NODE, "Bytes of a node's memory", _RAY),
    ForeignMetric("ray_serve_autoscaling_target_replicas", _DEPLOYMENT, "Replicas required", _RAY),
    ForeignMetric("ray_serve_deployment_replica_healthy", (*_DEPLOYMENT, "replica"), "1 for a healthy replica", _RAY),
    ForeignMetric("kuberay_service_condition_ready", _SERVICE, "1 while ready", _OPERATOR),
    ForeignMetric("kuberay_service_condition_upgrade_in_progress", _SERVICE, "1 while upgrading", _OPERATOR),
    ForeignMetric("vllm:num_requests_running", _MODEL, "Requests in the batch", _VLLM),
    ForeignMetric("vllm:num_requests_waiting", _MODEL, "Requests that wait", _VLLM),
    ForeignMetric("vllm:kv_cache_usage_perc", _MODEL, "Share of the KV cache in use, 0 to 1", _VLLM),
    ForeignMetric("vllm:inter_token_latency_seconds_bucket", (*_MODEL, "le"), "Time between tokens", _VLLM),
)
"""Metrics of others that dashboards and alert rules may use."""

LABELS: Final = {
    "endpoint": "chat, completions, embeddings, messages, responses or route",
    "strategy": "one of the strategies, or empty: the request ended before a decision",
    "pool": "a pool of the config, a level of a stream, or empty",
    "code": "an HTTP status; in refusals one of REFUSAL_CODES, others count as `other`",
    "status": "completed, failed, cancelled or route_only",
    "layer": "parse, decide or pool",
    "router": "a router in service, or empty: the strategy has none",
    "reason": "one of CAUSES; in retries full, draining, lost, slow or failed",
    "task": "a task of the config's table",
    "direction": "in or out",
    "guard": "a guard of the config, or placement",
    "category": "a category of the guards",
    "where": "input",
    "what": "json, usage or encoding",
    "version": "a version that serves; those that no longer do are not reported",
    "signal": "scores, share, inputs, vectors, or quality_ and a pool",
    "stream": "a stream's uid, at most streams.most; its name is its tenant's",
    "level": "a kind of level, or llm",
    "model": "the model of a pool",
    "gateway": "a Gateway that runs",
    "replica": "the address of a replica that runs",
}
"""By label: what bounds its values. None is a tenant, a user, or anything of a request's content."""
VALUES: Final = {
    "endpoint": ("chat", "completions", "embeddings", "messages", "responses", "route"),
    "status": ("completed", "failed", "cancelled", "route_only"),
    "layer": ("parse", "decide", "pool"),
    "direction": ("in", "out"),
    "where": ("input",),
    "what": ("json", "usage", "encoding"),
}
"""By label: every value, where there are few."""
CAUSES: Final[tuple[str, ...]] = get_args(Cause)
"""Values of `reason` in decisions."""
RETRY_REASONS: Final = ("full", "draining", "lost", "slow", "failed")
REFUSAL_CODES: Final = frozenset(
    {
        *("adapter_missing", "adapters_disabled", "admin_key_not_configured", "body_timeout", "conflict"),
        *("content_filter", "context_length_exceeded", "duplicate_key", "invalid_adapter", "invalid_api_key"),
        *("image_too_large", "invalid_image", "invalid_image_type", "too_many_images"),
        *("invalid_content_type", "invalid_encoding", "invalid_json", "invalid_threshold", "invalid_value"),
        *("method_not_allowed", "missing_api_key", "missing_required_parameter", "model_not_found"),
        *("names_not_found", "not_found", "nothing_to_undo", "overloaded", "permission_denied"),
        *("placement_forbidden", "pool_unavailable", "previous_response_not_found", "registry_not_followed"),
        *("registry_unusable", "request_too_large", "search_too_long", "stopping", "store_unavailable"),
        *("streams_disabled", "tenant_share", "too_much_feedback", "unknown_route", "unsupported_parameter"),
        "upstream_refused_key",
    }
)
"""Codes of our own errors. An upstream may send any other."""


def definitions() -> Iterator[MetricDefinition]:
    """All of them, in the order of this file."""
    for value in list(globals().values()):
        if isinstance(value, MetricDefinition):
            yield value
        elif value is STREAM_COUNTS:
            yield from STREAM_COUNTS.values()
