"""A load result as a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.loops import Run
from benchmarks.stamp import one_line
from benchmarks.table import markdown
from serve_app import plots

_ROWS = (
    ("requests completed", "completed"),
    ("requests failed", "failed"),
    ("duration, s", "duration"),
    ("requests a second", "request_throughput"),
    ("goodput, requests a second", "request_goodput"),
    ("output tokens a second", "output_throughput"),
    ("tokens a second, in and out", "total_token_throughput"),
    ("most requests at once", "max_concurrent_requests"),
)


def table(found: dict[str, Any], percentiles: Sequence[float]) -> str:
    """Throughput, latencies, pools and errors as markdown."""
    parts = [markdown(["measure", "value"], [(label, found[key]) for label, key in _ROWS])]
    head = ["ms", "mean", "median", *(f"p{p:g}" for p in percentiles)]
    names = {
        "ttft": "TTFT",
        "tpot": "TPOT",
        "itl": "ITL",
        "e2el": "E2E",
        "client_queue_time": "late sends of the client",
    }
    keys = ["mean", "median", *(f"p{p:g}" for p in percentiles)]
    parts.append(markdown(head, [(label, *(found[f"{k}_{n}_ms"] for k in keys)) for n, label in names.items()]))
    rows = [(p, v["requests"], v["share"] * 100, _percent(v["exact"])) for p, v in found["pools"].items()]
    parts.append(markdown(["pool", "requests", "share, %", "exact answers, %"], rows))
    failed, lag = found["failures"], found["client"]
    parts.append(
        f"Failed before the first byte: {failed['before_first_byte']}; after it: {failed['after_first_byte']}; "
        f"by kind: {failed['by_kind'] or 'none'}. Client's event loop late by "
        f"{lag['loop_lag_p50_ms']:.2f} ms (p50), {lag['loop_lag_p99_ms']:.2f} ms (p99).\n"
    )
    return "\n".join(parts) + f"\n{one_line(found['environment'])}\n"


def plot(run: Run, found: dict[str, Any], path: Path) -> None:
    """Distributions of TTFT and E2E, and requests a second over time, as a PNG."""
    done = [r for r in run.records if r.ok]
    figure, (left, right) = plots.new_figure(2, 5.5, 4.0)
    for label, values in (
        ("TTFT", [r.ttft_s for r in done if r.ttft_s is not None]),
        ("E2E", [r.e2el_s for r in done]),
    ):
        if values:
            left.ecdf([v * 1e3 for v in values], label=label)
    left.set(xlabel="ms", ylabel="share of requests", xscale="log", title="Latency", ylim=(0, 1))
    if done:
        left.legend()
    seconds = range(int(found["duration"]) + 2)
    for label, rows, colour in (
        ("completed", done, plots.color(0)),
        ("failed", [r for r in run.records if not r.ok], plots.color(7)),
    ):
        right.hist([r.end_s - run.start_s for r in rows], bins=seconds, histtype="step", label=label, color=colour)
    right.set(xlabel="s", ylabel="requests in each second", title="Ends over time")
    right.legend()
    figure.suptitle(found["label"], fontsize=10)
    plots.save(figure, path)


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100
