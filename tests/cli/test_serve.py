"""`jethro serve` up to where Ray would start; what follows is the business of tests/integration."""

import pytest

from serve_app.cli.serve import ServeConsole, command
from serve_app.config import load
from serve_app.deployments import run as deployment
from serve_app.gateway.services import Readiness


@pytest.fixture
def served(monkeypatch):
    """Configs that were handed over to be served."""
    configs = []

    def record(config, *, console, source):
        configs.append(config)
        console.ready(Readiness(True))

    monkeypatch.setattr(deployment, "run", record)
    return configs


def test_the_lab_is_served_by_default(run, served):
    result = run("serve")
    assert result.exit_code == 0
    assert [c.pools["small"].model for c in served] == ["jlab-small"]
    assert "jethro is ready: http://127.0.0.1:8000/v1" in result.stderr


def test_options_win_over_settings_and_the_environment(run, served):
    arguments = ["--port", "9003", "--host", "::1", "--set", "server.port=9002", "--set", "routing.strong_share=0.3"]
    result = run("serve", "lab", *arguments, JETHRO__SERVER__PORT="9001")
    assert (served[0].server.port, served[0].server.host, served[0].routing.strong_share) == (9003, "::1", 0.3)
    assert "http://[::1]:9003/v1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "without keys is refused"),
        (["--port", "99999"], "less than or equal to 65535"),
        (["--set", "a"], "write key=value"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["lap"], "did you mean lab?"),
    ],
)
def test_a_wrong_config_never_reaches_ray(run, served, arguments, said):
    result = run("serve", *arguments)
    assert (result.exit_code, served) == (2, [])
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_the_console_says_what_is_down_where_and_what_to_know_of_the_config(capsys):
    console = ServeConsole(load("remote", env={}))
    console.warn("no router is chosen")
    down = {"ok": False, "required": None, "why": "cannot be reached"}
    up = {"ok": True, "required": None, "why": None}
    console.waiting(Readiness(False, pools={"small": down, "large": down}))
    console.ready(Readiness(True, degraded=True, pools={"small": down, "large": up}))
    lines = capsys.readouterr().err.splitlines()
    small = "pool small (small-model) is down at http://127.0.0.1:8101/v1: cannot be reached"
    assert lines[0] == "warning: no router is chosen"
    assert lines[1].startswith(
        f"not ready: {small}; pool large (large-model) is down at http://127.0.0.1:8102/v1: cannot"
    )
    assert lines[2] == "jethro is ready, degraded: http://127.0.0.1:8000/v1"
    assert lines[3:5] == [f"  {small}", "  warning: no router is chosen"]


@pytest.mark.parametrize(("exposed", "said"), [("true", 1), ("false", 0)])
def test_the_address_of_the_page_is_said_where_it_is_served(capsys, exposed, said):
    config = load("lab", env={}, settings={"server.expose_console": exposed, "server.port": "9123"})
    ServeConsole(config).ready(Readiness(True))
    assert capsys.readouterr().err.count("  console: http://127.0.0.1:9123/console\n") == said


@pytest.mark.parametrize(
    ("found", "typed"), [(None, "bin/jethro"), ("/usr/bin/jethro", "bin/jethro"), ("own", "jethro")]
)
def test_the_command_to_try_is_one_that_the_reader_can_type(tmp_path, monkeypatch, found, typed):
    own = tmp_path / "bin" / "jethro"
    own.parent.mkdir()
    own.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(own.with_name("python")))
    monkeypatch.setattr("shutil.which", lambda name: str(own) if found == "own" else found)
    assert command() == typed
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command() == ("jethro" if found == "own" else str(own))
    own.unlink()
    assert command() == "jethro"
