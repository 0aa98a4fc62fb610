"""`jethro serve` up to where Ray would start; what follows is the business of tests/integration."""

import pytest

from serve_app.deployments import run as deployment


@pytest.fixture
def served(monkeypatch):
    """Configs that were handed over to be served."""
    configs = []

    def record(config, *, ready):
        configs.append(config)
        ready()

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
