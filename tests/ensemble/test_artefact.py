"""Plans as folders: what is saved is loaded, and what was changed is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.ensemble.artefact import FILE, FittedPlan, agreement_of, load_fitted, load_plan, save_plan, version_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round
from serve_app.errors import ConfigError
from tests.ensemble.test_agreement import MODEL


def plan(**changes: Any) -> EnsemblePlan:
    rounds = (Round((MemberCalls("a"), MemberCalls("b", 2)), 0.8), Round((MemberCalls("c", adapter="math"),)))
    whole = EnsemblePlan(
        rounds,
        "vote",
        "",
        "number",
        MODEL.state(),
        quorum=2,
        deadline_s=4.0,
        expected={"quality": 0.9},
        models={"a": "m"},
    )
    whole = replace(whole, **changes)
    return replace(whole, version=version_of(whole))


def test_a_saved_plan_is_the_same(tmp_path: Path) -> None:
    save_plan(FittedPlan(plan(), "strong-share=0.2", {"queries": 100}), tmp_path)
    found = load_fitted(tmp_path)
    assert found.plan == plan() and found.target == "strong-share=0.2" and found.data == {"queries": 100}
    assert agreement_of(found.plan) == MODEL and agreement_of(plan(agreement={})) is None


def test_the_version_is_of_what_decides() -> None:
    assert plan().version == plan(expected={}, models={}).version
    others = [plan(normalizer="text"), plan(quorum=1), plan(agreement={}), plan(rounds=plan().rounds[:1])]
    assert len({plan().version, *(one.version for one in others)}) == 5


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "version is .* it was changed by hand": lambda b: b["rounds"][0].update(stop_at=0.7),
    "quorum is missing": lambda b: b.pop("quorum"),
    "extra is no key of a plan": lambda b: b.update(extra=1),
    "kind is 'cascade'": lambda b: b.update(kind="cascade"),
    "models must be an object": lambda b: b.update(models=[]),
}
RIGHTLY_VERSIONED: dict[str, dict[str, Any]] = {
    "rounds must be a list": {"rounds": []},
    r"rounds\[0\]: must be an object of calls": {"rounds": [{"calls": []}]},
    r"rounds\[0\].calls: must be a list": {"rounds": [{"calls": [], "stop_at": 0}]},
    "name a member twice": {
        "rounds": [{"calls": [{"pool": "a", "samples": 1, "adapter": None}] * 2, "stop_at": 0.0}],
    },
    "samples: is 0": {"rounds": [{"calls": [{"pool": "a", "samples": 0, "adapter": None}], "stop_at": 0.0}]},
    "stop_at: is -1": {"rounds": [{"calls": [{"pool": "a", "samples": 1, "adapter": None}], "stop_at": -1}]},
    "select is 'luck'": {"select": "luck"},
    "no form of answers": {"normalizer": "luck"},
    "agreement: must be an object of": {"agreement": {"kind": "votes"}},
    "quorum is 0": {"quorum": 0},
    "deadline_s is -1": {"deadline_s": -1},
    "ranker is ''": {"ranker": ""},
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_was_changed_is_refused(message: str, tmp_path: Path) -> None:
    save_plan(FittedPlan(plan()), tmp_path)
    body = json.loads((tmp_path / FILE).read_text())
    CHANGES[message](body)
    (tmp_path / FILE).write_text(json.dumps(body))
    with pytest.raises(ConfigError, match=message):
        load_plan(tmp_path)


@pytest.mark.parametrize("message", RIGHTLY_VERSIONED)
def test_what_is_malformed_is_refused(message: str, tmp_path: Path) -> None:
    save_plan(FittedPlan(plan()), tmp_path)
    body = json.loads((tmp_path / FILE).read_text()) | RIGHTLY_VERSIONED[message]
    (tmp_path / FILE).write_text(json.dumps(body))
    with pytest.raises(ConfigError) as wrong:
        load_plan(tmp_path)
    body["version"] = str(wrong.value).split("this content is ")[1].split(":")[0]
    (tmp_path / FILE).write_text(json.dumps(body))
    with pytest.raises(ConfigError, match=message):
        load_plan(tmp_path)
