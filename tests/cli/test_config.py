"""`jethro config check | show | profiles`."""

import yaml

from serve_app.config import load, profile_names
from tests.integration.serving import free_port


def test_check_says_good_and_what_is_in_it(run, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(run("config", "show", "remote").stdout)
    keys = {"SMALL_API_KEY": "a", "LARGE_API_KEY": "b"}
    result = run("config", "check", str(path), "--set", f"server.port={free_port()}", **keys)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"{path}: good"
    assert "small: small-model (openai" in result.stdout


def test_check_tells_every_mistake_on_stderr_and_exits_with_2(run, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("sever: {}\nserver: {port: x}\n")
    result = run("config", "check", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    for said in ("sever: unknown key", "did you mean server?", "server.port", "pools: missing"):
        assert said in result.stderr


def test_check_of_a_missing_file_exits_with_2(run):
    result = run("config", "check", "none.yaml")
    assert result.exit_code == 2
    assert "none.yaml: no such file" in result.stderr


def test_show_prints_the_whole_config_in_force(run):
    shown = yaml.safe_load(run("config", "show", JETHRO__SERVER__PORT="9000").stdout)
    assert shown == load("lab", env={"JETHRO__SERVER__PORT": "9000"}).model_dump(mode="json")


def test_show_takes_settings_and_refuses_half_a_setting(run):
    shown = yaml.safe_load(run("config", "show", "lab", "--set", "server.port=9001", "--set", "store.batch=7").stdout)
    assert (shown["server"]["port"], shown["store"]["batch"]) == (9001, 7)
    result = run("config", "show", "--set", "server.port")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: --set server.port: ") and "--set server.port=9000" in result.stderr


def test_show_names_a_secret_and_never_prints_it(run):
    shown = run("config", "show", "remote", SMALL_API_KEY="s3cret", LARGE_API_KEY="s3cret").stdout
    assert "api_key_env: SMALL_API_KEY" in shown
    assert "s3cret" not in shown


def test_profiles_lists_all_of_them(run):
    lines = run("config", "profiles").stdout.splitlines()
    assert [line.split()[0] for line in lines] == profile_names()
