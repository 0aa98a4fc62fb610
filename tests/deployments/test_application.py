"""The builder: config in, application out, mistakes refused."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from serve_app.config import Config, load
from serve_app.deployments import build, gateway, learner, pool, scorer
from serve_app.deployments.application import BuildArgs, deployment_name
from serve_app.deployments.checks import check_port, check_secrets
from serve_app.deployments.run import _absolute, start, why_failed
from serve_app.errors import ConfigError
from tests.integration.serving import free_port


@pytest.mark.parametrize("profile", ["lab", "lab-vllm", "ensemble", "gpu", "remote"])
def test_every_profile_builds(profile: str) -> None:
    assert isinstance(build(BuildArgs(config=profile)), Application)


def test_wrong_config_is_refused_with_key_and_mend(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("pools: {small: {model: a, engine: {kind: transformers, path: x}}}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: pools: .*large"):
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
    with pytest.raises(ConfigError, match="SMALL_API_KEY"):
        check_secrets(load("remote"))
    keyed = load("lab").model_dump() | {"server": {"keys": [{"name": "team", "env": "JETHRO_TEST_UNSET"}]}}
    with pytest.raises(ConfigError, match="JETHRO_TEST_UNSET"):
        check_secrets(Config.model_validate(keyed))


def test_a_missing_model_folder_stops_the_start_before_ray() -> None:
    tree = load("lab").model_dump()
    tree["server"]["port"] = free_port()  # an endpoint may be running here
    tree["pools"]["small"]["engine"]["path"] = "/nowhere/model"
    with pytest.raises(ConfigError, match=r"pools\.small\.engine\.path: /nowhere/model"):
        start(Config.model_validate(tree))


def test_a_taken_port_stops_the_start_before_ray() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = Config.model_validate(load("lab").model_dump() | {"server": {"port": port}})
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*--port"):
            start(config)
    check_port(config)


def test_a_failed_deployment_says_what_to_mend() -> None:
    traceback = (
        "The deployment failed to start 3 times in a row.\n"
        "ray::ServeReplica:jethro:LargePool.initialize_and_get_metadata()\n"
        "ValueError: the cause\n"
        "serve_app.errors.ConfigError: model '/m' cannot be loaded: give a folder in Hugging Face format\n"
    )
    told = why_failed({"SmallPool": "", "LargePool": traceback})
    assert "LargePool" in told and "model '/m' cannot be loaded: give a folder in Hugging Face format" in told
    assert why_failed({"SmallPool": ""}) == ""


class _Logs(Exception):
    """Level and replica that a replica's log was set up with."""


@pytest.mark.parametrize(
    ("module", "name"),
    [(gateway, "GatewayReplica"), (pool, "PoolReplica"), (learner, "LearnerReplica"), (scorer, "ScorerReplica")],
)
def test_every_replica_sets_up_its_log_first(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    def log_to_stderr(level: str, replica: str, *, content: bool) -> None:
        raise _Logs(level, replica)

    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"), deployment="d", app_name="jethro")
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(module, "log_to_stderr", log_to_stderr)
    tree = load("lab").model_dump(mode="json") | {"log": {"level": "error"}}
    arguments = {
        "GatewayReplica": (tree, {}),
        "PoolReplica": ("small", tree["pools"]["small"], "none:none", 1, {"level": "error"}),
        "LearnerReplica": (tree,),
        "ScorerReplica": (tree,),
    }[name]
    with pytest.raises(_Logs) as caught:
        asyncio.run(getattr(module, name).__init__(SimpleNamespace(), *arguments))
    assert caught.value.args == ("error", "r1")


@pytest.mark.parametrize(
    ("router", "inside"),
    [
        ("complexity", "complexity"),
        ("mine@v1", "mine@v1"),
        ("own/router", "{here}/own/router"),
        ("own/router@v1", "{here}/own/router@v1"),
    ],
)
def test_a_router_is_found_from_where_the_replicas_run(
    router: str, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name stays a name, whatever its version; a folder is the operator's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "var" / "routers" / "mine" / "v1").mkdir(parents=True)
    (tmp_path / "var" / "routers" / "mine" / "v1" / "card.json").write_text("{}")
    tree = _absolute(load("lab", settings={"routing.router": router}, env={}))
    assert tree["routing"]["router"] == inside.format(here=tmp_path)
    assert tree["routing"]["registry"] == f"{tmp_path}/var/routers"
