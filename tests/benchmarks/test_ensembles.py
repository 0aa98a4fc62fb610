"""The benchmark of fitted ensembles: prices, halves, the untuned cascade, and a whole run on made-up files."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cascades.curves import Curve
from benchmarks.ensembles import __main__ as command
from benchmarks.ensembles import report
from benchmarks.ensembles.methods import Routed, halves
from benchmarks.ensembles.settings import SETTINGS, Setting, load, price

MADE_UP = Setting("made up", "made_up", ("gemma-2-9b-it", "Qwen2-7B-Instruct"), "gpt-4o-2024-08-06", 0.9, 0.5)


def made_up(folder: Path, n: int = 300) -> None:
    rng = np.random.default_rng(0)
    accuracy = {"gemma-2-9b-it": 0.75, "Qwen2-7B-Instruct": 0.75, "gpt-4o-2024-08-06": 0.9, "Phi-3-mini-4k": 0.75}
    with gzip.open(folder / "made_up.jsonl.gz", "wt") as out:
        for i in range(n):
            right = {name: bool(rng.random() < p) for name, p in accuracy.items()}
            said = {m: [str(i) if ok else f"{m} {i}", int(ok), 400] for m, ok in right.items()}
            out.write(json.dumps({"prompt": f"question {i}", "models": said}) + "\n")


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ("Meta-Llama-3_1-70B-Instruct", (0.88, 0.88)),
        ("gpt-4o-mini-2024-07-18", (0.15, 0.6)),
        ("gpt-4o-2024-08-06", (2.5, 10.0)),
        ("Yi-1.5-9B-Chat", (0.2, 0.2)),
        ("Qwen2.5-32B-Instruct", (0.6, 0.6)),
        ("reka-core-20240501", None),
    ],
)
def test_prices(model: str, rate: tuple[float, float] | None) -> None:
    assert price(model) == rate


def test_halves_share_no_query() -> None:
    train, test = halves(101, 3)
    assert len(train) == 50 and sorted([*train, *test]) == list(range(101))


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(tmp_path)
    monkeypatch.setattr(command, "SETTINGS", (MADE_UP,))
    arguments = ["--data", str(tmp_path), "--splits", "2", "--no-routing", "--out", str(tmp_path)]
    code = command.main(arguments)
    found = json.loads((tmp_path / "ensembles.json").read_text())
    lines = found["settings"][0]["lines"]
    assert lines["with cheap members"]["same"]["quality"] > 0.9, "three independent members and a strong one"
    assert code == int(not found["verdict"]["with cheap members"])
    assert "| made up |" in (tmp_path / "ensembles.md").read_text()
    assert (tmp_path / "ensembles.png").stat().st_size > 10_000
    assert "made up, three: split 2 of 2" in capsys.readouterr().err


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data", str(tmp_path)]) == 2
    assert "there is no zeroeval_gsm.jsonl.gz" in capsys.readouterr().err
    assert command.main(["--data", str(tmp_path), "--only", "nothing"]) == 2
    assert "no setting 'nothing'" in capsys.readouterr().err


@pytest.mark.skipif("JETHRO_TEST_DATA" not in os.environ, reason="JETHRO_TEST_DATA names no folder of recorded answers")
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_untuned_cascade_is_as_first_computed(setting: Setting) -> None:
    quality, called = load(Path(os.environ["JETHRO_TEST_DATA"]) / "multi", setting).cascade()
    assert float(quality.mean()) == pytest.approx(setting.quality, abs=0.001)
    assert float(called.mean()) == pytest.approx(setting.share, abs=0.001)


def test_a_run_that_was_stopped_resumes_after_the_settings_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(tmp_path)
    monkeypatch.setattr(command, "load", lambda folder, setting: setting)
    measured: list[str] = []

    def measure(setting: Setting, args: object) -> dict[str, str]:
        if setting.name == "CRUX" and measured.count("CRUX") == 0:
            measured.append("CRUX")
            raise KeyboardInterrupt
        measured.append(setting.name)
        return {"name": setting.name}

    monkeypatch.setattr(command, "_measured", measure)
    args = command.arguments(["--data", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(KeyboardInterrupt):
        command._all_measured(SETTINGS, args)
    found = command._all_measured(SETTINGS, args)
    assert [one["name"] for one in found] == [setting.name for setting in SETTINGS]
    assert measured == ["GSM8K", "MATH level 5", "CRUX", "CRUX", "MMLU-Pro, small", "MMLU-Pro, large"]
    assert list((tmp_path / "out").iterdir()) == []


def test_routing_is_read_at_the_cost_of_a_plan() -> None:
    several = Routed()
    for quality in (0.5, 0.7):
        several.add(Curve(np.array([[quality] * 2, [0.9, 0.9]]), np.array([[1.0, 1.0], [3.0, 3.0]])))
    assert several.at(2.0) == pytest.approx((0.7 + 0.8) / 2)
    assert several.at(9.0) == pytest.approx(0.9) and several.points() == [(1.0, 0.5), (3.0, 0.9)]


def test_ensembles_below_a_single_model_are_named() -> None:
    fine = {"over_single": 0.01, "over_single_interval": [-0.01, 0.03]}
    unsure = {"over_single": -0.01, "over_single_interval": [-0.03, 0.01]}
    below = {"over_single": -0.03, "over_single_interval": [-0.05, -0.01]}
    without = {"over_single": None, "over_single_interval": None}
    good = {"name": "x", "lines": {"three": {"fewer": fine, "same": unsure}, "cheap": {"fewer": without, "same": fine}}}
    assert "none of 4 ensembles (least difference -1.00 points)" in report._below_single([good])
    bad = {"name": "y", "lines": {"three": {"fewer": below, "same": fine}}}
    assert "y, three, fewer of 6" in report._below_single([good, bad])
