"""Every planted mistake is refused by `jethro config check`, and by a start before Ray, with file, key and fix."""

import json
from hashlib import blake2b
from pathlib import Path

import pytest
import safetensors.numpy
import yaml
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config import load
from serve_app.deployments import run
from serve_app.deployments.checks import check_start
from serve_app.errors import ConfigError
from tests.deployments.planted import MISTAKES, Machine, Mistake


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine.good(tmp_path, monkeypatch)


def written(machine: Machine) -> str:
    Path("my.yaml").write_text(yaml.safe_dump(machine.tree), "utf-8")
    return "my.yaml"


def no_ray(*_: object, **__: object) -> None:
    raise AssertionError("Ray was started")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name.replace(" ", "-"))
def test_a_planted_mistake_is_refused_by_the_check_and_by_the_start(machine: Machine, mistake: Mistake) -> None:
    mistake.plant(machine)
    file = written(machine)
    before = sorted(machine.folder.rglob("*"))
    done = CliRunner().invoke(app, ["config", "check", file])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    refused = done.stderr.removeprefix("error: ").rstrip("\n")
    assert all(line.startswith("my.yaml: ") for line in refused.splitlines())
    for part in (mistake.key, mistake.fix, *mistake.said):
        assert part in refused
    assert sorted(machine.folder.rglob("*")) == before, "a check changes nothing"

    machine.patch.setattr("ray.init", no_ray)
    with pytest.raises(ConfigError) as raised:
        run.start(load(file, env={}), source=file)
    assert str(raised.value) == refused
    assert not run._home, "nothing was made for Ray"
    for thing in machine.held:
        thing.close()


def test_there_are_twenty_of_them_and_each_is_one_of_its_kind() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 20


def test_without_a_mistake_the_check_is_good_and_says_which_router_serves(machine: Machine) -> None:
    done = CliRunner().invoke(app, ["config", "check", written(machine)])
    assert done.exit_code == 0, done.output
    assert "router: random" in done.stdout
    assert "warning: no router trained on m-small and m-large is chosen" in done.stderr


def test_several_mistakes_are_said_at_once(machine: Machine) -> None:
    machine.engine(api_key_env="NO_KEY")
    machine.set("cascade", chain="./chain")
    machine.set("store", path=".")
    lines = CliRunner().invoke(app, ["config", "check", written(machine)]).stderr.splitlines()
    assert [part for part in ("NO_KEY", "store.path", "cascade.chain") if any(part in line for line in lines)] == [
        "NO_KEY", "store.path", "cascade.chain",
    ]  # fmt: skip


def test_settings_count_as_in_serve(machine: Machine) -> None:
    file = written(machine)
    good = CliRunner().invoke(app, ["config", "check", file, "--set", "routing.router=random"])
    assert good.exit_code == 0 and good.stderr == ""
    bad = CliRunner().invoke(app, ["config", "check", file, "--set", "routing.router=mime"])
    assert bad.exit_code == 2 and "no router 'mime'" in bad.stderr


def test_the_file_alone_may_be_looked_at(machine: Machine) -> None:
    """For a config that is served elsewhere: its keys, ports and folders are not here."""
    machine.engine(api_key_env="NO_KEY")
    machine.set("cascade", chain="./chain")
    done = CliRunner().invoke(app, ["config", "check", written(machine), "--file-only"])
    assert done.exit_code == 0, done.output


def test_on_a_cluster_its_nodes_have_the_files(machine: Machine) -> None:
    machine.set("cascade", chain="./chain")
    machine.patch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert check_start(load(written(machine), env={})).problems == []
    machine.patch.delenv("TEAM_KEY")
    assert "TEAM_KEY" in check_start(load("my.yaml", env={})).problems[0]


def test_what_does_not_stop_a_start_is_a_warning(machine: Machine) -> None:
    """A router that nobody names and that is damaged, a stream of another format, a router of other models."""
    version = machine.router()
    (machine.folder / "routers" / "mine" / version / "router.json").write_text("{")
    machine.set("routing", router="complexity")
    report = check_start(load(written(machine), env={}))
    assert report.problems == []
    assert any("complexity was trained on the answers of jlab-small and jlab-large" in line for line in report.warnings)
    assert any(line.startswith("router mine is left out: ") and "router.json" in line for line in report.warnings)


def test_a_stream_of_another_format_is_a_warning(machine: Machine) -> None:
    """The others are served, and this one says so to its callers."""
    content = safetensors.numpy.save({}, {"values": json.dumps({"format": 99, "values": {}})})
    folder = machine.folder / "streams" / "tickets"
    folder.mkdir(parents=True)
    name = f"checkpoint-00000000-{blake2b(content, digest_size=16).hexdigest()}.safetensors"
    (folder / name).write_bytes(content)
    (folder / "checkpoint-00000001-0.safetensors").write_bytes(b"cut short")
    machine.set("streams", enabled=True, folder="streams")
    report = check_start(load(written(machine), env={}))
    assert report.problems == []
    (line,) = (line for line in report.warnings if line.startswith("streams.folder: "))
    assert name in line and "has format 99" in line and "start the version that wrote it" in line


@pytest.mark.parametrize(
    ("env", "fix"), [("NO_ADMIN", "export it"), ("TEAM_KEY", "holds the key of a caller"), ("METRICS", "of /metrics")]
)
def test_the_operators_key_is_set_and_no_other(machine: Machine, env: str, fix: str) -> None:
    machine.patch.setenv("METRICS", "m")
    machine.set("server", admin_key_env=env, metrics_key_env="METRICS")
    result = CliRunner().invoke(app, ["config", "check", written(machine)])
    said = result.stdout + result.stderr
    assert result.exit_code == 2 and "server.admin_key_env" in said and env in said and fix in said
    assert "k-team" not in said
