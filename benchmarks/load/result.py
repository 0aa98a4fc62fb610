"""A run as numbers, under the keys that `vllm bench serve` writes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.goodput import meets
from benchmarks.load.loops import Run
from benchmarks.load.prompts import Prompt
from benchmarks.record import Record
from benchmarks.stats import percentile, summary


def result(run: Run, percentiles: Sequence[float], limits_s: Mapping[str, float]) -> dict[str, Any]:
    """Throughput, latencies of the completed requests (ms), goodput (None without limits) and errors by kind."""
    done = [r for r in run.records if r.ok]
    duration = max(run.end_s - run.start_s, 1e-9)
    tokens_in, tokens_out = sum(r.prompt_tokens for r in done), sum(r.output_tokens for r in done)
    good = sum(meets({"ttft": r.ttft_s, "tpot": r.tpot_s, "e2el": r.e2el_s}, limits_s) for r in done)
    keys: dict[str, Any] = {
        "duration": duration,
        "completed": len(done),
        "failed": len(run.records) - len(done),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "request_throughput": len(done) / duration,
        "request_goodput": good / duration if limits_s else None,
        "output_throughput": tokens_out / duration,
        "total_token_throughput": (tokens_in + tokens_out) / duration,
        "max_output_tokens_per_s": _peak_tokens_per_s(done, run.start_s),
        "max_concurrent_requests": _peak_concurrency(run.records),
    }
    values = {
        "ttft": [t for r in done if (t := r.ttft_s) is not None],
        "tpot": [t for r in done if (t := r.tpot_s) is not None],
        "itl": [gap for r in done for gap in r.itl_s],
        "e2el": [r.e2el_s for r in done],
    }
    for name, seconds in values.items():
        keys |= summary(name, seconds, percentiles)
    return keys | summary("client_queue_time", [r.lag_s for r in done], percentiles)


def failures(records: Sequence[Record]) -> dict[str, Any]:
    """Failed requests by when and how, with the first example of each kind."""
    bad = [r for r in records if not r.ok]
    kinds = Counter(f"{r.outcome} {r.status}" if r.outcome == "refused" else r.outcome for r in bad)
    return {
        "before_first_byte": sum(r.before_first_byte for r in bad),
        "after_first_byte": sum(not r.before_first_byte for r in bad),
        "by_kind": dict(kinds),
        "examples": {r.outcome: r.detail for r in reversed(bad)},
    }


def by_pool(records: Sequence[Record], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Requests and, where the right answer is known, the share answered exactly, for each pool and for all."""
    found: dict[str, Any] = {}
    done = [r for r in records if r.ok]
    for pool in [*sorted({r.pool or "unnamed" for r in done}), "all"]:
        mine = [r for r in done if pool in ("all", r.pool or "unnamed")]
        graded = [float(r.text.strip() == a) for r in mine if (a := prompts[r.index].answer) is not None]
        found[pool] = {
            "requests": len(mine),
            "share": len(mine) / len(done) if done else 0.0,
            "exact": sum(graded) / len(graded) if graded else None,
        }
    return found


def client(run: Run) -> dict[str, float]:
    """Whether the client kept up: how late its event loops woke, in ms."""
    return {
        "loop_lag_p50_ms": percentile(run.lags_s, 50) * 1e3,
        "loop_lag_p99_ms": percentile(run.lags_s, 99) * 1e3,
    }


def details(records: Sequence[Record], start_s: float) -> dict[str, list[Any]]:
    """Per-request lists under vLLM's `--save-detailed` keys (seconds)."""
    return {
        "input_lens": [r.prompt_tokens for r in records],
        "output_lens": [r.output_tokens for r in records],
        "ttfts": [r.ttft_s for r in records],
        "itls": [r.itl_s for r in records],
        "start_times": [r.sent_s - start_s for r in records],
        "generated_texts": [r.text for r in records],
        "errors": [r.detail for r in records],
    }


def _peak_tokens_per_s(records: Sequence[Record], start_s: float) -> float:
    times = np.array([t - start_s for r in records for t in r.token_s])
    return float(np.bincount(times.clip(0).astype(int)).max()) if times.size else 0.0


def _peak_concurrency(records: Sequence[Record]) -> int:
    steps = sorted([(r.sent_s, 1) for r in records] + [(r.end_s, -1) for r in records])
    return int(np.cumsum([s for _, s in steps]).max()) if steps else 0
