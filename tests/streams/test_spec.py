""""""

import json

import pytest

from serve_app.errors import RequestError
from serve_app.streams.base import BudgetChange
from serve_app.streams.spec import (
    check_budget,
    check_spec,
    difference,
    spec_from_json,
    spec_to_json,
    with_budget,
)
from tests.streams.fakes import spec

BOUNDS = (5, ("small", "large"))


def test_json_and_back():
    made = spec(fixes={"replay": False}, mu=0.1, llm_share=None)
    assert spec_from_json(json.loads(json.dumps(spec_to_json(made)))) == made


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"name": "Mood"}, "name", "up to 48"),
        ({"name": "x" * 49}, "name", "up to 48"),
        ({"name": "../mood"}, "name", "up to 48"),
        ({"name": "lock"}, "name", "`lock`"),
        ({"labels": ("joy",)}, "labels", "1 labels: .*2 to 5"),
        ({"labels": tuple("abcdef")}, "labels", "6 labels: .*2 to 5"),
        ({"labels": ("joy", "Joy!")}, "labels", "alike"),
        ({"labels": ("joy", "joy")}, "labels", "alike"),
        ({"labels": ("joy", " ")}, "labels", "blanks"),
        ({"labels": ("joy", "x" * 65)}, "labels", "65 characters"),
        ({"labels": ("joy", "fe\nar")}, "labels", "control characters"),
        ({"instruction": ""}, "instruction", "1 to 4000"),
        ({"instruction": "x" * 4001}, "instruction", "4001 characters"),
        ({"llm_pool": "huge"}, "llm_pool", "small, large"),
        ({"llm_share": None}, "llm_share", "one of"),
        ({"mu": 1.0}, "llm_share", "one of"),
        ({"llm_share": 0.0}, "llm_share", "above 0"),
        ({"llm_share": 1.5}, "llm_share", "share"),
        ({"llm_share": float("nan")}, "llm_share", "share"),
        ({"mu": -1.0, "llm_share": None}, "mu", "at least 0"),
        ({"horizon": 0}, "horizon", "1 to"),
        ({"levels": ()}, "levels", "weakest first"),
        ({"levels": ("encoder", "logistic")}, "levels", "weakest first"),
        ({"levels": ("tree",)}, "levels", "weakest first"),
        ({"audit_share": 2.0}, "audit_share", "less than 1"),
        ({"objective": "recall"}, "objective", "recall.*accuracy, balanced"),
        ({"explore_floor": -0.1}, "explore_floor", "less than 1"),
        ({"params": {"deferral_steps": 1e9}}, "params", "deferral_steps .*1e.09.* 0 to 64"),
        ({"params": {"logistic.cache_size": 1e300}}, "params", "logistic.cache_size .*1e.300.* 0 to 10000"),
        ({"params": {"drift_alarm": -1.0}}, "params", "drift_alarm .*-1.* 0 to 1e.09"),
        ({"params": {"replay": float("nan")}}, "params", "replay .*nan"),
    ],
)
def test_what_a_stream_may_not_be(changes, param, message):
    with pytest.raises(RequestError, match=message) as refused:
        check_spec(spec(**changes), *BOUNDS)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_what_it_may_be():
    check_spec(spec(), *BOUNDS)
    check_spec(spec(mu=0.0, llm_share=None, levels=("logistic", "encoder")), *BOUNDS)
    check_budget(BudgetChange(llm_share=1.0))


def test_a_budget_makes_no_other_stream():
    assert difference(spec(), with_budget(spec(), BudgetChange(mu=3.0))) is None
    assert difference(spec(), spec(labels=("joy", "anger"))) == "labels"
    assert difference(spec(), spec(instruction="Other.")) == "instruction"


def test_a_stream_of_an_earlier_version_continues_as_it_was_created():
    values = spec_to_json(spec(fixes={"drift": False}))
    del values["objective"]
    found = spec_from_json(values)
    assert (found.objective, dict(found.fixes)) == ("balanced", {"margin": False, "drift": False})
    assert spec_from_json(spec_to_json(found)) == found
    assert difference(found, spec(fixes={"drift": False})) in ("mends", "objective")
