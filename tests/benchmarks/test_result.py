"""A run as vLLM's result keys."""

import pytest

from benchmarks.load.loops import Run
from benchmarks.load.prompts import Prompt
from benchmarks.load.result import by_pool, details, failures, result
from benchmarks.record import Record

VLLM_KEYS = {
    "duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
    "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests",
    *(f"{s}_{m}_ms" for s in ("mean", "median", "std", "p99") for m in ("ttft", "tpot", "itl", "e2el")),
}  # fmt: skip


@pytest.fixture
def run() -> Run:
    def ok(index: int, start: float, tokens: list[float], end: float, pool: str, text: str) -> Record:
        return Record(index, start, start, end, "ok", 200, "", tokens, 10, len(tokens), pool, text)

    return Run(
        [
            ok(0, 0.0, [0.1, 0.2, 0.3], 0.3, "small", "42"),
            ok(1, 0.0, [0.5, 1.5], 1.5, "large", "7 "),
            Record(2, 1.0, 1.0, 1.1, "refused", 503, "503 busy"),
            Record(3, 1.0, 1.0, 1.2, "error_event", 200, "dead", [1.1]),
        ],
        0.0,
        2.0,
    )


def test_keys_and_throughput(run: Run) -> None:
    found = result(run, [99], {})
    assert found.keys() >= VLLM_KEYS
    assert (found["completed"], found["failed"]) == (2, 2)
    assert found["request_throughput"] == 1.0
    assert found["output_throughput"] == 2.5
    assert found["total_token_throughput"] == 12.5
    assert found["max_concurrent_requests"] == 3
    assert found["max_output_tokens_per_s"] == 4
    assert found["request_goodput"] is None


def test_latencies_are_of_completed_requests_only(run: Run) -> None:
    found = result(run, [99], {})
    assert found["mean_ttft_ms"] == pytest.approx(300)
    assert found["mean_tpot_ms"] == pytest.approx((100 + 1000) / 2)
    assert found["mean_itl_ms"] == pytest.approx((100 + 100 + 1000) / 3), "gaps pooled over requests"
    assert found["median_e2el_ms"] == pytest.approx(900)


def test_goodput_counts_requests_that_meet_all_limits(run: Run) -> None:
    assert result(run, [99], {"ttft": 0.2, "e2el": 1.0})["request_goodput"] == 0.5
    assert result(run, [99], {"e2el": 2.0})["request_goodput"] == 1.0
    assert result(run, [99], {"tpot": 0.01})["request_goodput"] == 0.0


def test_failures_by_kind(run: Run) -> None:
    found = failures(run.records)
    assert (found["before_first_byte"], found["after_first_byte"]) == (1, 1)
    assert found["by_kind"] == {"refused 503": 1, "error_event": 1}
    assert found["examples"] == {"refused": "503 busy", "error_event": "dead"}


def test_exactness_by_pool(run: Run) -> None:
    prompts = [Prompt((), "42"), Prompt((), "8"), Prompt((), "1"), Prompt((), "1")]
    found = by_pool(run.records, prompts)
    assert found["small"] == {"requests": 1, "share": 0.5, "exact": 1.0}
    assert found["large"]["exact"] == 0.0
    assert found["all"] == {"requests": 2, "share": 1.0, "exact": 0.5}
    assert by_pool(run.records, [Prompt(())] * 4)["all"]["exact"] is None


def test_details_have_one_entry_a_request(run: Run) -> None:
    assert {len(v) for v in details(run.records, 0.0).values()} == {4}


def test_an_empty_run_has_the_same_keys(run: Run) -> None:
    assert result(Run([], 0.0, 1.0), [99], {}).keys() == result(run, [99], {}).keys()
