""""""

import logging

import numpy as np
import pytest

from serve_app.decision.threshold import Calibration
from serve_app.routing.drift import Inputs
from serve_app.routing.serving.watching import RouterWatch
from serve_app.types import Message, Query
from tests.routing.test_inputs import prompts, vectors

QUERIES = prompts(600, 1)


def calibration(rng: np.random.Generator) -> Calibration:
    tokens = np.ones((600, 2))
    return Calibration(rng.beta(2, 5, 600), np.ones(600), np.ones(600), tokens, tokens)


def watch(rng: np.random.Generator, **options: object) -> RouterWatch:
    return RouterWatch("v", calibration(rng), 0.3, Inputs.of(QUERIES), **options)  # type: ignore[arg-type]


def run(watched: RouterWatch, scores: np.ndarray, queries: list[Query]) -> None:
    for query, score in zip(queries, scores, strict=True):
        watched.observe(query, float(score))
        watched.digest()


def test_steady_traffic_is_read_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    watched = watch(rng)
    assert watched.state() == {}
    run(watched, rng.beta(2, 5, 1200), prompts(1200, 2))
    state = watched.state()
    assert set(state) == {"scores", "share", "inputs"} and not any(s["drift"] for s in state.values())
    assert state["scores"]["queries"] == 1000 and state["inputs"]["feature"] and not caplog.records


def test_drift_is_logged_once_when_it_begins_and_once_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    watched = watch(rng)
    run(watched, rng.beta(5, 2, 1000), prompts(1000, 2, length=40))
    assert all(signal["drift"] for signal in watched.state().values())
    with caplog.at_level(logging.WARNING):
        run(watched, rng.beta(2, 5, 1500), prompts(1500, 3))
    assert not any(signal["drift"] for signal in watched.state().values())
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 6
    assert sum("drifted away" in line for line in told) == sum("is back" in line for line in told) == 3


def test_too_little_traffic_says_nothing() -> None:
    rng = np.random.default_rng(0)
    watched = watch(rng)
    run(watched, np.ones(190), prompts(190, 2))
    assert watched.state() == {}


def test_vectors_are_read_where_they_are_at_hand() -> None:
    rng = np.random.default_rng(0)
    reference = Inputs.of(QUERIES, vectors(600, 1))
    live = iter(vectors(1000, 2, shift=3.0))
    watched = RouterWatch("v", calibration(rng), 0.3, reference, lambda text: next(live) if text != "?" else None)
    run(watched, rng.beta(2, 5, 600), [*prompts(500, 2), *[Query((Message("user", "?"),))] * 100])
    assert watched.state()["vectors"]["drift"] and watched.state()["vectors"]["queries"] == 500


def test_another_threshold_is_another_share() -> None:
    rng = np.random.default_rng(0)
    watched = watch(rng)
    run(watched, np.full(500, 0.4), prompts(500, 2))
    assert watched.state()["share"]["drift"]
    watched.set_threshold(0.3)
    assert "share" in watched.state()
    watched.set_threshold(0.9)
    assert "share" not in watched.state()


def test_memory_is_bounded_also_if_nobody_digests() -> None:
    watched = watch(np.random.default_rng(0))
    for query in prompts(2000, 2):
        watched.observe(query, 0.5)
        watched.feedback("small", 0.5, 1.0)
    assert len(watched._queued) == len(watched._feedback) == 500
