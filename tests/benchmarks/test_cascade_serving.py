import json
from pathlib import Path

import pytest

from benchmarks.cascade_serving.__main__ import arguments, write
from benchmarks.cascade_serving.ask import Endpoint, Reply, reply_of
from benchmarks.cascade_serving.figures import Run, figures, missed
from benchmarks.connection import Reply as Raw
from benchmarks.stamp import environment
from serve_app.lab.sample import sample

STREAM = "jethro-cascade-stream"


def reply(quality: float, pool: str, first_ms: float, **rest: float) -> Reply:
    figures = {"probe_ms": first_ms + 1, "last_ms": first_ms + 5, "tokens": 20, "wasted_tokens": 0}
    figures |= {"cost_usd": 1e-3, "wasted_usd": 0.0, "strong_calls": pool == "large", "raced": False, **rest}
    return Reply("x", quality, pool, first_ms, **figures)  # type: ignore[arg-type]


def by_hand(escalated_ms: float = 20.0, times: int = 1) -> Run:
    """Ten queries, so many times over; the cascade takes the weak answer of six of ten, and loses one."""
    weak = [reply(float(i < 5), "small", 10.0) for i in range(10)]
    strong = [reply(1.0, "large", 10.0) for _ in range(10)]
    cascade = [
        reply(float(i != 5), "small", 12.0) if i < 6 else reply(1.0, "large", escalated_ms, wasted_tokens=10)
        for i in range(10)
    ]
    replies = {"w": weak * times, "s": strong * times, STREAM: cascade * times}
    return Run([f"q{i}" for i in range(10 * times)], "w", "s", replies)


def test_figures_by_hand() -> None:
    found = figures(by_hand(), 0)[STREAM]
    assert (found["quality"], found["strong_calls"]) == (0.9, 0.4)
    assert found["quality_drop"] == pytest.approx(0.1)
    assert found["wasted_tokens_share"] == pytest.approx(40 / 200)
    assert found["accepted"]["ratio"] == pytest.approx(1.2)
    assert found["escalated"]["ratio"] == pytest.approx((20 - 11) / 10)
    assert found["escalated"]["plain_ratio"] == pytest.approx(2.0)
    assert found["escalated_after_probe"]["queries"] == 4


def test_what_is_missed_is_told() -> None:
    run = by_hand(escalated_ms=40.0, times=10)
    told = missed(figures(run, 0), run)
    assert [line.partition(": ")[2][:10] for line in told] == ["quality dr", "TTFT of es", "TTFT of es"]


def test_the_median_of_a_few_streams_is_shown_and_not_held() -> None:
    run = by_hand(escalated_ms=40.0)
    found = figures(run, 0)
    assert found[STREAM]["escalated"]["ratio"] > 2
    assert [line.partition(": ")[2][:10] for line in missed(found, run)] == ["quality dr"]


def test_a_stream_is_read() -> None:
    item = sample(n=1, seed=1, split="unseen")[0]
    events: list[tuple[float, bytes]] = [
        (1.001, b'{"choices":[{"delta":{"content":"4"}}]}'),
        (1.003, b'{"choices":[{"delta":{"content":"2"}}]}'),
        (
            1.005,
            json.dumps(
                {
                    "choices": [],
                    "usage": {"total_tokens": 30},
                    "jethro": {
                        "pool": "large",
                        "cost_usd": 0.5,
                        "wasted": {"total_tokens": 12, "cost_usd": 0.1},
                        "steps": [
                            {"pool": "small", "reason": "replaced"},
                            {"pool": "large", "reason": "raced in vain"},
                        ],
                    },
                }
            ).encode(),
        ),
        (1.005, b"[DONE]"),
    ]
    found = reply_of(Raw(200, {"x-jethro-pool": "large"}, events, complete=True), 1.0, item, Endpoint("http://x"))
    assert (found.text, found.first_ms, found.probe_ms) == ("42", pytest.approx(1.0), pytest.approx(3.0))
    assert (found.tokens, found.wasted_tokens, found.strong_calls, found.raced) == (30, 12, 0, True)


@pytest.mark.slow
def test_everything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.cascade_serving.__main__.BUILD", tmp_path / "build")
    args = arguments(["--out", str(tmp_path), "--n", "100"])
    runs = {"without a race": by_hand()}
    found = {title: figures(run, 0) for title, run in runs.items()}
    write(args, runs, found, {"environment": environment(), "seed": 0, "missed": []})
    assert {p.name for p in tmp_path.iterdir()} >= {f"cascade_serving.{e}" for e in ("md", "json", "png")}
    assert "escalated: jethro-cascade-stream" in capsys.readouterr().out


def test_a_wrong_command_line_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--n", "5"])
    assert "at least 100" in capsys.readouterr().err
