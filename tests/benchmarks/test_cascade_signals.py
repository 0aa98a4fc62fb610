from dataclasses import asdict, replace

import pytest

from benchmarks.cascade_signals import MOST_DROP, MOST_STRONG, Row, keeps, measure, mixes, pair_rows, report
from benchmarks.cascade_signals_plot import draw
from serve_app.cascade.fitting.confidence import ConfidencePlan
from serve_app.cascade.signals.tokens import Brevity, MeanLogprob
from serve_app.decision.target import Target
from tests.cascade.recordings import made_up

TARGET = Target.parse("quality-drop=0.02")


def test_a_signal_that_knows_is_worth_more_than_one_that_does_not():
    learn, other = made_up(600), made_up(600, seed=1)
    knows = measure("knows", ConfidencePlan((MeanLogprob(),)), learn, other, TARGET)
    blind = measure("blind", ConfidencePlan((Brevity(),)), learn, other, TARGET)
    assert knows.auc > 0.7 > 0.55 > blind.auc
    assert knows.strong_share < blind.strong_share
    assert knows.drop_low <= knows.drop <= knows.drop_high
    assert (knows.tokens, measure("one", ConfidencePlan((MeanLogprob(),), prefix=1), learn, other, TARGET).tokens) == (
        "whole",
        "1",
    )


@pytest.mark.slow
def test_pairs_are_compared_at_the_cost_of_plain_thresholds():
    rows = pair_rows(made_up(1_000), "small", "large")
    assert [r.cost_share for r in rows] == sorted(r.cost_share for r in rows)
    for row in rows:
        assert row.calibrated == pytest.approx(row.plain, abs=0.03), "a monotone calibration keeps the order"


def test_the_bounds_of_shipped_chains():
    row = Row("x", "whole", 0.9, 0.0, MOST_STRONG, MOST_DROP, 0.0, 0.02, 0.5)
    assert keeps(row) and not keeps(replace(row, strong_share=0.51)) and not keeps(replace(row, drop=0.011))


@pytest.mark.slow
def test_the_report_tells_every_row():
    row = Row("mean_logprob", "2", 0.87, 0.01, 0.445, 0.0063, 0.004, 0.009, 0.54)
    pairs = {"mine": pair_rows(made_up(400), "small", "large")}
    text = report([row], [], pairs, "quality-drop=0.01", (400, 300, "here"))
    assert "| mean_logprob |" in text and "0.63 [0.40, 0.90]" in text and "## mine" in text and "400" in text


def test_every_mix_has_a_name_of_its_own():
    names = [name for name, _ in mixes()]
    assert len(set(names)) == len(names) > 15


@pytest.mark.slow
def test_the_picture_has_all_signals_and_prefixes(tmp_path):
    from matplotlib.image import imread

    rows = [
        asdict(Row(name, tokens, 0.87, 0.01, 0.445, 0.0063, 0.004, 0.009, 0.54))
        for name in ("mean_logprob", "prior")
        for tokens in ("whole", "1", "2", "3")
    ]
    for count in (1, 8):
        draw(rows[:count], "quality-drop=0.01", "here", tmp_path / f"{count}.png")
    one, all_of_them = (imread(tmp_path / f"{count}.png") for count in (1, 8))
    assert all_of_them.shape[0] > one.shape[0], "a signal more is a line more"
