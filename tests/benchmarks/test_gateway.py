"""The gateway benchmark's own arithmetic: rates, search, marks, metrics, and its client of paced streams."""

import math
import threading
from collections.abc import Iterator

import pytest
import uvicorn
import uvloop

from benchmarks.connection import Address
from benchmarks.gateway.layers import AT_GATEWAY, PING_AT_GATEWAY, THROUGH_HAPROXY, Layers, _means
from benchmarks.gateway.pacing import search
from benchmarks.gateway.report import Mark, as_json, best, layer_ms, marks, tables
from benchmarks.gateway.rounds import ONE_SHOT, STREAM, TOKENS, Cell, Target
from benchmarks.gateway.streams import hold, probe
from benchmarks.gateway.upstream import build
from benchmarks.gateway.wrk import Load
from benchmarks.process import answers, free_port
from benchmarks.script import pace_s, prompt


def load(per_second: float, received: int = 0, errors: int = 0) -> Load:
    return Load(int(per_second * 2), received, 2.0, 1.0, 2.0, 3.0, errors)


def cell(target: str, case: str, rate: float, errors: int = 0) -> Cell:
    return Cell(target, case, 16, 0, [load(rate, errors=errors)])


LAYERS = Layers(
    path_ms={THROUGH_HAPROXY: 1.0, AT_GATEWAY: 0.8, PING_AT_GATEWAY: 0.1},
    cpu_us={c: dict.fromkeys(("HAProxy", "Gateway", "pool replicas", "Ray (raylet, controller, other)"), 1.0)
            for c in (ONE_SHOT, STREAM)},
    inside_ms={"parse": {"p50": 0.05, "p99": 0.1}, "decide": {"p50": 0.2, "p99": 0.5}, "pool": {"p50": 0.3, "p99": 1}},
    under_load_ms={"decide": 0.3},
)  # fmt: skip


def test_the_rate_is_the_median_of_the_rounds() -> None:
    assert Cell("a", ONE_SHOT, 1, 0, [load(10), load(30), load(20)]).per_second == 20


def test_streams_are_counted_by_bytes_so_that_unfinished_ones_count() -> None:
    assert Cell("a", STREAM, 64, 100, [load(0, received=1000)]).per_second == 5.0


def test_latency_of_a_run_without_answers_is_not_a_number() -> None:
    assert math.isnan(Cell("a", STREAM, 64, 100, [load(0, received=1000)]).p50_ms)


def test_best_takes_the_highest_of_all_workers_and_none_with_errors() -> None:
    cells = [cell("litellm, 1 worker", ONE_SHOT, 100), cell("litellm, 2 workers", ONE_SHOT, 120)]
    assert best(cells, "litellm", ONE_SHOT) == 120
    assert best([*cells, cell("litellm, 3 workers", ONE_SHOT, 900, errors=1)], "litellm", ONE_SHOT) == 120


@pytest.mark.parametrize(("mine", "holds"), [(1500.0, True), (900.0, False)])
def test_marks_compare_with_the_peer_and_the_limit(mine: float, holds: bool) -> None:
    cells = [
        cell(target, case, rate)
        for case in (ONE_SHOT, STREAM)
        for target, rate in (("jethro", mine), ("bare uvicorn", 3000.0), ("litellm, 1 worker", 100.0))
    ]
    found = marks(cells, LAYERS)
    assert found[0].value == mine / 100
    assert found[0].passed is holds
    assert "Pass marks" in tables(cells, [], LAYERS, _stamp())
    assert as_json(cells, [], LAYERS, _stamp())["marks"][0]["passed"] is holds


def test_a_mark_with_nothing_to_compare_does_not_pass() -> None:
    assert not Mark("x", math.nan, 1.0).passed
    assert not Mark("x", math.nan, 1.0, at_least=False).passed


@pytest.mark.parametrize("limit", [0, 1, 5, 8, 37, 64, 100, 1000])
def test_search_finds_the_limit_to_within_a_tenth(limit: int) -> None:
    found = search(lambda n: n <= limit, start=8)
    assert found <= limit <= max(found + 1, found * 1.1 + 1)


def test_layers_add_up_to_the_whole() -> None:
    found = layer_ms(LAYERS)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["HAProxy"] == pytest.approx(0.2)
    assert found["account, log, store, metrics, write"] == pytest.approx(0.15)


def test_layer_means_are_of_the_time_between_two_scrapes() -> None:
    def scrape(count: float, total: float) -> dict[str, float]:
        return {'jethro_layer_seconds_count{layer="decide"}': count, 'jethro_layer_seconds_sum{layer="decide"}': total}

    found = _means(scrape(10, 1.0), scrape(20, 1.005))
    assert found["decide"] == pytest.approx(0.5)
    assert math.isnan(found["parse"])


def test_the_script_reads_the_pace_that_it_writes() -> None:
    assert pace_s(prompt(10)) == 0.01
    assert pace_s(prompt()) == 0.0


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(build(), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not answers(f"http://127.0.0.1:{port}/health"):
        pass
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def request(url: str, pace_ms: int) -> bytes:
    body = Target("bare", url, "fake").body(STREAM, pace_ms)
    return Address.of(url).post("/v1/chat/completions", body)


def test_a_stream_is_one_event_a_token_and_done(upstream: str) -> None:
    events, size = uvloop.run(probe(Address.of(upstream), request(upstream, 0), TOKENS))
    assert events == TOKENS + 1
    assert size > TOKENS * 100


def test_a_stream_that_brings_too_little_is_an_error(upstream: str) -> None:
    with pytest.raises(RuntimeError, match="events"):
        uvloop.run(probe(Address.of(upstream), request(upstream, 0), TOKENS + 1))


@pytest.mark.slow
def test_paced_streams_are_held_and_their_gaps_measured(upstream: str) -> None:
    found = uvloop.run(hold(Address.of(upstream), request(upstream, 10), 4, 1.0, TOKENS))
    assert found["wrong"] == 0
    assert found["finished"] >= 4
    assert found["itl_p50_ms"] > 1
    assert found["tokens_per_s"] > 0


def _stamp() -> dict[str, object]:
    machine = {"cores": 2, "cpu": "x", "python": "3", "load_average_1m": 0.0}
    return {"date": "2026-01-01T00:00", "commit": "c", "gateways": 2, **machine}
