"""The builder: config in, application out, mistakes refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from ray.serve import Application

from serve_app.config import Config, load
from serve_app.deployments import build
from serve_app.deployments.application import BuildArgs, deployment_name
from serve_app.deployments.run import check_secrets, start
from serve_app.errors import ConfigError


@pytest.mark.parametrize("profile", ["lab", "lab-vllm", "gpu", "remote"])
def test_every_profile_builds(profile: str) -> None:
    assert isinstance(build(BuildArgs(config=profile)), Application)


def test_wrong_config_is_refused_with_key_and_mend(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("pools: {small: {model: a, engine: {kind: transformers, path: x}}}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: pools: pool large missing"):
        build(BuildArgs(config=str(file)))
    with pytest.raises(ValidationError, match="confg"):
        BuildArgs.model_validate({"confg": "lab"})


def test_names() -> None:
    assert [deployment_name(n) for n in ("small", "large", "code-expert")] == [
        "SmallPool",
        "LargePool",
        "CodeExpertPool",
    ]


def test_unset_secrets_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMALL_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="SMALL_API_KEY is not set"):
        check_secrets(load("remote"))
    keyed = load("lab").model_dump() | {"server": {"keys": [{"name": "team", "env": "JETHRO_TEST_UNSET"}]}}
    with pytest.raises(ConfigError, match="JETHRO_TEST_UNSET is not set"):
        check_secrets(Config.model_validate(keyed))


def test_a_missing_model_folder_stops_the_start_before_ray() -> None:
    tree = load("lab").model_dump()
    tree["pools"]["small"]["engine"]["path"] = "/nowhere/model"
    with pytest.raises(ConfigError, match=r"pools\.small\.engine\.path: /nowhere/model: no such folder"):
        start(Config.model_validate(tree))
