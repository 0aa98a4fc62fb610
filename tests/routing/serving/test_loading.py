""""""

from pathlib import Path

import pytest

from serve_app.errors import ConfigError, DependencyError
from serve_app.routing.default import default_source
from serve_app.routing.registry import Registry
from serve_app.routing.serving.loading import Loader
from tests.routing.artefacts import LAB, MODELS, config, register


def loader(registry: Path, models: tuple[str, str] = MODELS, **routing: object) -> Loader:
    return Loader.from_config(config(registry, models, **routing))


def test_without_a_choice_the_shipped_router_serves_the_models_it_knows_and_all_are_offered(tmp_path: Path) -> None:
    register(Registry(tmp_path))
    found = loader(tmp_path, LAB).load()
    assert found.default == "complexity" and set(found.routers) >= {"complexity", "mine", "random"}
    assert found.refused == {}


def test_the_registrys_default_serves_unless_the_config_names_one(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = register(registry)
    registry.use_default("mine")
    found = loader(tmp_path).load()
    assert found.default == "mine" and found.routers["mine"].version == version
    assert found.threshold == found.routers["mine"].threshold
    assert loader(tmp_path, router="random").load().default == "random"
    assert default_source(config(tmp_path).routing, registry, MODELS) == "mine"


def test_only_what_is_offered_is_loaded(tmp_path: Path) -> None:
    register(Registry(tmp_path))
    assert set(loader(tmp_path, LAB, offered=[]).load().routers) == {"complexity"}
    assert set(loader(tmp_path, LAB, offered=["mine"]).load().routers) == {"complexity", "mine"}


def test_what_serves_already_is_taken_over_with_scorer_and_watch(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    second = register(registry, 2)
    load = loader(tmp_path, router="mine")
    before = load.load()
    assert all(load.load(before).routers[name] is served for name, served in before.routers.items())
    registry.use("mine", threshold=0.125)
    after = load.load(before)
    assert after.threshold == 0.125 and after.routers["mine"].threshold == 0.125
    assert after.routers["mine"]._kept is before.routers["mine"]._kept
    assert after.routers["mine"].watch is before.routers["mine"].watch
    registry.use("mine", second)
    assert load.load(after).routers["mine"].version == second
    assert load.load(after).routers["complexity"] is before.routers["complexity"]


def test_the_configs_threshold_holds_for_every_version(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    load = loader(tmp_path, router="mine", strong_share=0.25)
    before = load.load()
    registry.use("mine", register(registry, 2))
    after = load.load(before)
    for found in (before, after):
        calibration = found.routers["mine"].registered.calibration
        assert calibration is not None and (calibration.scores >= found.threshold).mean() == pytest.approx(0.25)
    assert before.threshold != after.threshold


def test_a_folder_is_read_once_and_serves_under_its_kind(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "elsewhere")
    folder = registry.path("mine", register(registry))
    load = loader(tmp_path / "none", router=str(folder), offered=[])
    before = load.load()
    assert before.default == "random" and before.routers["random"].source == str(folder)
    assert load.load(before).routers["random"] is before.routers["random"]


def test_a_broken_version_is_refused_and_the_old_one_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(tmp_path)
    register(registry, 1)
    second = register(registry, 2)
    load = loader(tmp_path, router="mine")
    before = load.load()
    (registry.path("mine", second) / "router.json").write_text("{", "utf-8")
    registry.use("mine", second)
    after = load.load(before)
    assert after.routers["mine"] is before.routers["mine"] and after.threshold == before.threshold
    assert "router.json: cannot be read" in after.refused["mine"]
    assert "mine is refused" in caplog.text


def test_a_broken_router_beside_the_default_is_left_out(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    (registry.path("mine", register(registry)) / "router.json").unlink()
    found = loader(tmp_path).load()
    assert "mine" not in found.routers and "no such file" in found.refused["mine"]


def test_what_ships_but_needs_an_extra_is_left_out_without_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(*_: object) -> None:
        raise DependencyError("the encoder 'minilm' is not installed: pip install 'jethro[encoders]'")

    monkeypatch.setattr("serve_app.routing.kinds.matrix_factorization.router.saved_encoder", not_installed)
    found = loader(tmp_path).load()
    assert set(found.routers) == {"assistant", "complexity", "random"} and found.refused == {}
    with pytest.raises(DependencyError, match="not installed"):
        loader(tmp_path, router="mf").load()


def test_a_broken_or_unknown_default_stops_the_start(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    (registry.path("mine", register(registry)) / "calibration.npz").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"calibration\.npz: cannot be read"):
        loader(tmp_path, router="mine").load()
    with pytest.raises(ConfigError, match=r"'nope'.*random"):
        loader(tmp_path, router="nope").load()


def test_a_default_that_is_gone_keeps_the_one_before(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry)
    load = loader(tmp_path, LAB)
    before = load.load()
    (tmp_path / "default").write_text("gone\n", "utf-8")
    after = load.load(before)
    assert after.default == before.default == "complexity" and "complexity" in after.refused


@pytest.mark.parametrize("value", ["nan", "2", "x"])
def test_a_threshold_put_there_by_hand_is_checked(tmp_path: Path, value: str) -> None:
    registry = Registry(tmp_path)
    version = register(registry)
    (tmp_path / "mine" / "current").write_text(f"{version} {value}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"current: no threshold"):
        loader(tmp_path, router="mine").load()


def test_for_other_models_the_shipped_router_is_no_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its score of 0.999 for everything would look learned."""
    found = loader(tmp_path).load()
    assert found.default == "random" and found.threshold == 0.5
    assert found.default_note is not None and "no router trained on these models is chosen" in found.default_note
    assert found.statement is not None and found.statement in caplog.text
    assert "no router trained on m-small and m-large is chosen: `random` sends 50.0 % of the queries" in found.statement
    assert found.notes["complexity"] == "router complexity was not trained on these models: its score is a guess"
    assert "random" not in found.notes


def test_a_trained_router_that_nobody_has_chosen_is_named(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    register(registry)
    register(registry, name="broken")
    (registry.path("broken", registry.current("broken")) / "card.json").write_text("{", "utf-8")
    found = loader(tmp_path).load()
    assert found.default == "random" and "the registry has mine, trained on them" in (found.statement or "")
    registry.use_default("mine")
    found = loader(tmp_path).load()
    assert (found.default, found.default_note, found.statement) == ("mine", None, None)


def test_a_router_of_other_models_that_is_named_serves_and_says_so(tmp_path: Path) -> None:
    found = loader(tmp_path, router="complexity").load()
    assert found.default == "complexity" and found.default_note == found.notes["complexity"]
    assert "trained on the answers of jlab-small and jlab-large, but serves m-small and m-large" in str(found.statement)


def test_random_that_was_chosen_needs_no_warning(tmp_path: Path) -> None:
    found = loader(tmp_path, router="random").load()
    assert (found.default, found.default_note, found.statement) == ("random", None, None)


def test_the_share_of_the_config_is_that_of_the_hash(tmp_path: Path) -> None:
    found = loader(tmp_path, strong_share=0.2).load()
    assert found.threshold == pytest.approx(0.8) and "sends 20.0 % of the queries to m-large" in str(found.statement)


def test_a_quality_without_a_router_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no calibration data for this target.*no router trained on m-small"):
        loader(tmp_path, max_quality_drop=0.02).load()


def test_an_own_version_of_a_shipped_name_that_serves_knows_its_models(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = register(registry)
    (tmp_path / "mine").rename(tmp_path / "complexity")
    registry.use("complexity", version)
    found = loader(tmp_path).load()
    assert (found.default, found.statement) == ("complexity", None)
