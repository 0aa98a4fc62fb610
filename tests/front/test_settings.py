"""The settings of a front on a cluster that others started: from the environment alone."""

import json
from pathlib import Path

import pytest

from serve_app.config import Config, load
from serve_app.errors import ConfigError
from serve_app.front.settings import BINARY, BOUNDS, PROGRAM, TOKEN, FrontSettings, bundled_haproxy
from serve_app.front.settings import load as load_front

SECRET = "0123456789abcdef+/="


def test_without_variables_there_is_no_token_and_the_bounds_are_the_defaults() -> None:
    found = load_front({})
    assert found.token == "" and found == FrontSettings("", found.haproxy)


def test_the_bounds_of_a_config_arrive() -> None:
    tree = load("lab", env={}).model_dump(mode="json", exclude_unset=True)
    server = {"connections": 99, "source_share": 0.5, "header_s": 3}
    config = Config.model_validate(tree | {"server": server, "limits": {"request_timeout_s": 100}})
    found = load_front({TOKEN: f"{SECRET}\n", BOUNDS: json.dumps(config.front_bounds())})
    assert found == FrontSettings(SECRET, found.haproxy, 99, 0.5, 3.0, 160.0)


def test_the_defaults_of_the_config_are_those_of_the_front() -> None:
    assert load_front({BOUNDS: json.dumps(load("lab", env={}).front_bounds())}) == load_front({})


def test_the_front_never_starts_itself_in_place_of_haproxy(tmp_path: Path) -> None:
    found = bundled_haproxy({BINARY: str(tmp_path / PROGRAM)})
    assert found == bundled_haproxy({}) and Path(found).name == "haproxy"
    assert load_front({BINARY: str(tmp_path / PROGRAM)}).haproxy == found
    assert bundled_haproxy({BINARY: "/usr/sbin/haproxy"}) == "/usr/sbin/haproxy"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (TOKEN, "short", "16 to 256"),
        (TOKEN, "0123456789abcdef if TRUE", "16 to 256"),
        (BOUNDS, "{", "JSON object"),
        (BOUNDS, "[1]", "JSON object"),
        (BOUNDS, '{"header": 1}', "header is unknown"),
        (BOUNDS, '{"header_s": "1"}', "header_s is unknown"),
        (BOUNDS, '{"header_s": NaN}', "header_s is unknown"),
        (BOUNDS, '{"connections": 0.5}', "connections is unknown"),
        (BOUNDS, '{"connections": true}', "connections is unknown"),
        (BOUNDS, '{"connections": 0}', "connections is unknown"),
        (BOUNDS, '{"token": "0123456789abcdef"}', "token is unknown"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_the_variable(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: .*{said}"):
        load_front({variable: value})
