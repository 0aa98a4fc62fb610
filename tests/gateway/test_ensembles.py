"""Which ensemble a config has, and what an operator is shown who has made a mistake."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.config.strategies import EnsembleConfig
from serve_app.config.tree import Config
from serve_app.ensemble.artefact import FittedPlan, load_plan, save_plan, version_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round
from serve_app.ensemble.serving.model_loading import ModelLoader, ModelThreads
from serve_app.ensemble.serving.strategy import Ensemble
from serve_app.errors import ConfigError, ModelNotFound
from serve_app.gateway.catalogue import Catalogue
from serve_app.gateway.ensembles import ENSEMBLE, AvailableEnsembles, load_ensembles
from serve_app.types import Capabilities
from tests.gateway.test_cascades import pools
from tests.routing.fakes import FakePool

ROUNDS = [
    {"calls": [{"pool": "small", "samples": 4}], "stop_at": 0.8},
    {"calls": [{"pool": "small"}, {"pool": "large"}]},
]


class Models(ModelLoader):
    """Loads what it is told to, and keeps from where."""

    def __init__(self) -> None:
        super().__init__(ModelThreads())
        self.loaded: list[str] = []

    def ranker(self, folder: Path) -> Any:
        self.loaded.append(f"ranker {folder}")
        return self.ranker

    def fuser(self, folder: Path) -> Any:
        self.loaded.append(f"fuser {folder}")
        return self.fuser


def offer(
    config: dict[str, Any], served: dict[str, FakePool] | None = None, models: ModelLoader | None = None
) -> AvailableEnsembles:
    settings = EnsembleConfig.model_validate(config)
    return load_ensembles(settings, served or pools(), models or ModelLoader(ModelThreads()))  # type: ignore[arg-type]


def offered(config: dict[str, Any], models: ModelLoader | None = None) -> Ensemble:
    strategy = offer(config, models=models).strategies[ENSEMBLE][0]
    assert isinstance(strategy, Ensemble)
    return strategy


def test_rounds_may_stand_in_the_config() -> None:
    found = offered({"rounds": ROUNDS, "quorum": 2, "deadline_s": 3.0})
    plan = found.plan
    assert [[m.name for m in each.calls] for each in plan.rounds] == [["small"], ["small", "large"]]
    assert (plan.rounds[0].calls[0].samples, plan.rounds[0].stop_at) == (4, 0.8)
    assert (plan.select, plan.quorum, plan.deadline_s, found.fuses) == ("vote", 2, 3.0, False)
    assert (
        plan.version.startswith("ensemble-")
        and plan.version == offered({"rounds": ROUNDS, "quorum": 2, "deadline_s": 3.0}).plan.version
    )
    assert plan.version != offered({"rounds": ROUNDS}).plan.version, "the version names all that decides"
    line = offer({"rounds": ROUNDS}).strategies[ENSEMBLE][1]
    assert line == "small x4; then small, large: picked by vote"


def test_best_of_n_is_a_plan() -> None:
    plan = offered({"rounds": [{"calls": [{"pool": "small", "samples": 8}]}], "select": "logprob"}).plan
    assert (len(plan.rounds), plan.members[0].samples, plan.select) == (1, 8, "logprob")


def test_a_ranker_and_a_fuser_are_loaded_from_their_folders() -> None:
    models = Models()
    found = offered({"rounds": ROUNDS, "ranker": "r", "fuser": "f"}, models)
    assert models.loaded == ["ranker r", "fuser f"]
    assert (found.plan.select, found.plan.fuse_top, found.fuses) == ("ranker", 3, True)
    assert found.rank is not None and found.fuse is not None


def test_a_pool_may_fuse() -> None:
    found = offered({"rounds": ROUNDS, "fuser": "pool:large", "fuse_top": 2})
    assert (found.fuse_pool, found.fuse, found.plan.fuse_top, found.fuses) == ("large", None, 2, True)


def test_without_a_plan_the_message_says_how_to_get_one() -> None:
    found = offer({})
    assert not found.strategies
    assert "jethro ensemble fit" in found.missing[ENSEMBLE] and "ensemble.rounds" in found.missing[ENSEMBLE]


def rounds(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"rounds": [{"calls": list(calls)}]}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (rounds({"pool": "tiny"}), r"ensemble.rounds: round 0, call 0 .*'tiny', .*small, large.*add it under pools"),
        (rounds({"pool": "small", "adapter": "legal"}), r"pool small has no adapters, .*'legal'.*leave it out"),
        (rounds({"pool": "small"}, {"pool": "small"}), r"round 0 calls small twice.*more samples"),
        ({**rounds({"pool": "small"}), "quorum": 2}, r"quorum is 2, .*draws 1 answers: lower ensemble.quorum to 1"),
        ({**rounds({"pool": "small"}), "select": "ranker"}, r"names none: give the folder of one in ensemble.ranker"),
        ({**rounds({"pool": "small"}), "ranker": "gone"}, r"ensemble.ranker: .*gone"),
        ({**rounds({"pool": "small"}), "fuser": "gone"}, r"ensemble.fuser: .*gone"),
        ({**rounds({"pool": "small"}), "fuser": "pool:tiny"}, r"ensemble.fuser: no pool 'tiny', .*small, large"),
        ({**rounds({"pool": "small"}), "fuse_top": 2}, r"fuse_top is 2, and no fuser .*give ensemble.fuser"),
        (
            {**rounds({"pool": "small"}), "normalizer": "magic"},
            r"ensemble.rounds: normalizer: 'magic' is no form .*give one of exact, text",
        ),
    ],
)
def test_mistakes_name_key_and_fix(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        offer(config)


def test_log_probabilities_that_a_pool_does_not_return() -> None:
    served = pools()
    served["small"].capabilities = Capabilities(logprobs=False)
    with pytest.raises(ConfigError, match=r"set pools.small.engine.logprobs if it does, or pick by vote"):
        offer({"rounds": ROUNDS, "select": "logprob"}, served)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"plan": "a", "rounds": ROUNDS}, "contradict"),
        ({"rounds": []}, "at least one"),
        ({"rounds": [{"calls": []}]}, "at least 1"),
        ({"select": "vote"}, "belongs to rounds"),
        (rounds({"pool": "small", "samples": 0}), "greater than or equal to 1"),
        ({"fuse_top": 1}, "greater than or equal to 2"),
        ({"round": ROUNDS}, "extra_forbidden"),
    ],
)
def test_the_tree_is_strict(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EnsembleConfig.model_validate(config)


def catalogue(**ensemble: Any) -> Catalogue:
    engine = {"kind": "openai", "urls": ["http://localhost/v1"]}
    tree = {name: {"model": f"m-{name}", "engine": engine} for name in pools()}
    return Catalogue.from_config(Config.model_validate({"pools": tree, "ensemble": ensemble}), pools())


def test_an_ensemble_is_listed_and_answers_to_its_name() -> None:
    names = catalogue(rounds=ROUNDS)
    assert names.resolve(ENSEMBLE).name == "ensemble"
    assert ENSEMBLE in {entry.id for entry in names.models()}


def test_without_a_plan_it_is_neither_listed_nor_unknown() -> None:
    names = catalogue()
    assert ENSEMBLE not in {entry.id for entry in names.models()}
    with pytest.raises(ModelNotFound, match="jethro ensemble fit"):
        names.resolve(ENSEMBLE)


MODELS = {"small": "m-small", "large": "m-large"}


def saved(folder: Path, **changes: Any) -> str:
    """A fitted plan in a folder."""
    calls = MemberCalls("small", 3), MemberCalls("large")
    plan = EnsemblePlan((Round(calls[:1], 0.75), Round(calls[1:])), "vote", "", normalizer="number", models=MODELS)
    plan = replace(plan, expected={"quality": 0.9}, **changes)
    save_plan(FittedPlan(replace(plan, version=version_of(plan))), folder)
    return str(folder)


def test_a_fitted_plan_serves_with_what_the_config_says_otherwise(tmp_path: Path) -> None:
    found = offered({"plan": saved(tmp_path)})
    assert found.plan == load_plan(tmp_path) and found.normalize("it is 4.0") == found.normalize("4")
    changed = offered({"plan": str(tmp_path), "quorum": 2, "deadline_s": 3.0}).plan
    assert (changed.quorum, changed.deadline_s) == (2, 3.0) and changed.version != found.plan.version


def test_a_plan_may_bring_its_ranker(tmp_path: Path) -> None:
    (tmp_path / "ranker").mkdir()
    models = Models()
    offered({"plan": saved(tmp_path, select="ranker", ranker="ranker")}, models)
    assert models.loaded == [f"ranker {tmp_path / 'ranker'}"]
    offered({"plan": str(tmp_path), "ranker": "other"}, models)
    assert models.loaded[1:] == ["ranker other"]


def test_a_plan_of_other_models_or_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ensemble.plan: .*plan.json: no such file; .*jethro ensemble fit"):
        offer({"plan": str(tmp_path)})
    served = pools(small="other")
    with pytest.raises(ConfigError, match=r"ensemble.plan: .*plan.json: .*'m-small', .*pools.small.model is 'other'"):
        offer({"plan": saved(tmp_path)}, served)
    file = tmp_path / "plan.json"
    file.write_text(file.read_text().replace("0.75", "0.5"))
    with pytest.raises(ConfigError, match=r"plan.json: .*changed by hand"):
        offer({"plan": str(tmp_path)})
