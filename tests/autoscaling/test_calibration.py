"""Pool models come back from calls that they made, and a recording that was simulated is predicted."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling_recording import PredictedFigure, Recording, replay
from serve_app.autoscaling.comparison import fit
from serve_app.autoscaling.policy import PoolLimits
from serve_app.autoscaling.rules import ShareRule
from serve_app.autoscaling.simulator import PoolModel, simulate
from serve_app.autoscaling.traces import PoolCall, Trace, Traffic, constant, step
from serve_app.errors import DataError

TRUTH = PoolModel(concurrency=8, prefill_s=0.12, token_s=0.015, slowdown=0.07, warm_up_s=5.0)
MODELS = {"small": replace(TRUTH, prefill_s=0.03, token_s=0.004), "large": TRUTH}
LIMITS = {name: PoolLimits(1, 8, 8, warm_up_s=5.0, hold_s=20.0) for name in MODELS}


def calls(number: int, noise: float) -> list[PoolCall]:
    rng = np.random.default_rng(1)
    made = []
    for i in range(number):
        tokens, others = float(rng.integers(1, 300)), int(rng.integers(0, 8))
        first, whole = (t * math.exp(rng.normal(0, noise)) for t in TRUTH.times(tokens, others))
        made.append(PoolCall(float(i), "large", tokens, float(others), first, whole))
    return made


def test_the_fit_finds_the_model_behind_calls() -> None:
    found = fit(calls(200, 0.0), PoolModel(warm_up_s=33.0))
    assert found.prefill_s == pytest.approx(TRUTH.prefill_s, rel=0.01)
    assert found.token_s == pytest.approx(TRUTH.token_s, rel=0.01)
    assert found.slowdown == pytest.approx(TRUTH.slowdown, rel=0.05)
    assert found.warm_up_s == 33.0  # what calls do not tell is kept


def test_the_fit_bears_noise_and_calls_without_an_answer() -> None:
    refused = PoolCall(0.0, "large", 0.0, 0.0, math.nan, math.nan)
    found = fit([*calls(2000, 0.1), refused], PoolModel())
    assert found.prefill_s == pytest.approx(TRUTH.prefill_s, rel=0.05)
    assert found.token_s == pytest.approx(TRUTH.token_s, rel=0.05)
    assert found.slowdown == pytest.approx(TRUTH.slowdown, rel=0.2)


def test_too_few_calls_are_refused() -> None:
    with pytest.raises(DataError, match="5 answered"):
        fit(calls(5, 0.0), PoolModel())


def recorded(trace: Trace) -> Recording:
    """What a run with the true models would have left behind."""
    outcome = simulate(trace, MODELS, ShareRule(LIMITS), {"small": 1, "large": 1})
    line = outcome.timeline
    made = []
    for i in range(len(trace)):
        name = "large" if trace.strong[i] else "small"
        first, whole = MODELS[name].times(float(trace.tokens[i]), 0)
        waited = max(0.0, float(outcome.ttft_s[i]) - first)
        made.append(PoolCall(float(trace.at_s[i]), name, float(trace.tokens[i]), 0.0, first, whole, waited))
    replicas = {name: tuple(line.running[name].tolist()) for name in MODELS}
    return Recording(tuple(made), tuple(line.at_s.tolist()), replicas, trace.duration_s)


def trace() -> Trace:
    return Traffic(constant(6.0), step(0.05, 0.6, 60.0), 6.0).draw("step", 120.0, 5)


def test_a_replay_of_what_the_simulator_did_agrees_with_it() -> None:
    recording = recorded(trace())
    _, found = replay(recording, MODELS, ShareRule(LIMITS))
    figures = {a.figure: a for a in found}
    assert set(figures) == {f"{n}: {f}" for n in MODELS for f in ("replica-hours", "TTFT p50, s", "TTFT p95, s")}
    assert all(a.error < 0.2 for a in found), found


def test_another_model_does_not_agree() -> None:
    slower = {name: replace(model, token_s=4 * model.token_s) for name, model in MODELS.items()}
    _, found = replay(recorded(trace()), slower, ShareRule(LIMITS))
    assert next(a for a in found if a.figure == "large: replica-hours").error > 0.2


def test_a_recording_survives_its_file(tmp_path: Path) -> None:
    recording = recorded(trace())
    refused = PoolCall(119.0, "large", 0.0, 0.0, math.nan, math.nan)
    recording = replace(recording, calls=(*recording.calls, refused))
    recording.save(tmp_path / "run.json")
    again = Recording.load(tmp_path / "run.json")
    assert again.calls[:-1] == recording.calls[:-1] and math.isnan(again.calls[-1].ttft_s)
    assert (again.at_s, again.replicas, again.duration_s) == (recording.at_s, recording.replicas, recording.duration_s)
    assert again.ttft(0.95, "large") == recording.ttft(0.95, "large")
    assert len(again.trace()) == len(recording.calls)


@pytest.mark.parametrize("text", ["", "[]", '{"calls": [{"at": 1}]}', '{"calls": [], "at_s": [], "replicas": {}}'])
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="no recording"):
        Recording.load(tmp_path / "x.json")


def test_hours_hold_each_count_until_the_next() -> None:
    call = PoolCall(0.0, "large", 1.0, 0.0, 0.1, 0.1)
    recording = Recording((call,), (0.0, 10.0), {"small": (1.0, 1.0), "large": (1.0, 3.0)}, 30.0)
    assert recording.hours("large") == pytest.approx((10 * 1 + 20 * 3) / 3600)
    with pytest.raises(DataError, match="each pool"):
        Recording((call,), (0.0,), {"small": (1.0, 1.0)}, 30.0)


def test_an_error_is_relative() -> None:
    assert PredictedFigure("x", 1.1, 1.0).error == pytest.approx(0.1)
    assert PredictedFigure("x", 0.0, 0.0).error == 0.0
