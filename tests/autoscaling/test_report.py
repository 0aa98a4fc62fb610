"""Tables, JSON and picture of a comparison."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.autoscaling.comparison import DEFAULT, OURS, RuleComparison, compare, reference
from serve_app.autoscaling.report import plot, to_json, to_markdown
from serve_app.autoscaling.traces import Traffic, constant

SCENARIO = replace(reference(), shares=(0.25, 1.0), holds_s=(300.0,))


@pytest.fixture(scope="module")
def found() -> list[RuleComparison]:
    """One trace with strong queries and one without."""
    return [
        compare([Traffic(constant(4.0), constant(share), 4.0).draw(name, 60.0, 1)], SCENARIO)
        for name, share in (("mixed", 0.5), ("easy", 0.0))
    ]


def test_json_is_complete_and_has_no_nan(found: list[RuleComparison]) -> None:
    body = json.loads(json.dumps(to_json(found, SCENARIO), allow_nan=False))
    mixed = body["traces"]["mixed"]
    assert mixed["rules"][OURS]["large_hours"] == found[0].rules[OURS].large_hours
    assert set(mixed["default_by_target"]) == {"2", "8"} and set(mixed["ours_by_hold_s"]) == {"300"}
    assert mixed["saving"]["reached"] is found[0].saving.reached
    assert body["traces"]["easy"]["rules"][OURS]["strong_p95_s"] is None
    assert body["pools"]["large"]["limits"]["max_replicas"] == SCENARIO.limits["large"].max_replicas


def test_markdown_has_a_row_for_each_rule_and_says_how_to_read_it(found: list[RuleComparison]) -> None:
    text = to_markdown(found, SCENARIO)
    assert text.count("### ") == 2
    for name in (OURS, DEFAULT, f"{DEFAULT}, target 8", f"{OURS}, hold 300 s", "oracle"):
        assert text.count(f"| {name} |") == 2
    assert "within 1 s" in text and "look-back 30 s" in text
    widths = {line.count("|") for line in text.partition("\n\n")[0].splitlines()}
    assert widths == {10}


@pytest.mark.slow
def test_the_picture_is_a_png(found: list[RuleComparison], tmp_path: Path) -> None:
    plot(found, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
