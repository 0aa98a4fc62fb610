"""Values from the environment in the shell's forms, and the profile that is made of them."""

import pytest
import yaml

from serve_app.config import load, profile_names
from serve_app.config.environment import expanded
from serve_app.errors import ConfigError

LARGE = {"JETHRO_LARGE_URL": "http://127.0.0.1:1/v1", "JETHRO_LARGE_MODEL": "big"}


@pytest.mark.parametrize(
    ("text", "env", "value"),
    [
        ("${A}", {"A": "x"}, "x"),
        ("${A}", {"A": " x "}, "x"),
        ("${A:-y}", {}, "y"),
        ("${A:-y}", {"A": ""}, "y"),
        ("${A:-y}", {"A": "x"}, "x"),
        ("${A:-}", {}, None),
        ("${A:+y}", {}, None),
        ("${A:+y}", {"A": "x"}, "y"),
        ("${A:?set it}", {"A": "x"}, "x"),
        ("a ${A}", {"A": "x"}, "a ${A}"),
        ("${A} b", {"A": "x"}, "${A} b"),
        ("$A", {"A": "x"}, "$A"),
        ("${1A}", {"1A": "x"}, "${1A}"),
        (7, {}, 7),
        (None, {}, None),
    ],
)
def test_a_whole_value_is_read_from_the_environment(text, env, value):
    assert expanded("f", {"k": text}, env) == {"k": value}
    assert expanded("f", [[text]], env) == [[value]]


def test_values_of_variables_are_not_read_again():
    assert expanded("f", {"k": "${A}"}, {"A": "${B}", "B": "x"}) == {"k": "${B}"}


def test_all_that_is_missing_is_said_at_once_and_each_once():
    tree = {"a": {"b": ["${A}"]}, "c": "${C:?do this}", "d": "${D:?do this}"}
    with pytest.raises(ConfigError) as caught:
        expanded("my.yaml", tree, {})
    assert str(caught.value).splitlines() == [
        "my.yaml: a.b.0: environment variable A is not set; export it",
        "my.yaml: do this",
    ]


def test_a_file_may_take_values_from_the_environment(tmp_path):
    file = tmp_path / "my.yaml"
    engine = {"kind": "openai", "urls": ["${URL}"], "api_key_env": "${KEY:+KEY}"}
    pools = {name: {"model": name, "engine": engine} for name in ("small", "large")}
    file.write_text(yaml.safe_dump({"pools": pools, "server": {"port": "${PORT:-9001}"}}))
    config = load(str(file), env={"URL": "http://h/v1"})
    assert (config.server.port, config.pools["small"].engine.urls) == (9001, ("http://h/v1",))
    assert config.secrets() == {}
    assert load(str(file), env={"URL": "http://h/v1", "KEY": "k", "PORT": "7"}).secrets().keys() == {"KEY"}
    with pytest.raises(ConfigError, match="environment variable URL is not set"):
        load(str(file), env={})


def test_the_assistant_says_in_one_sentence_what_its_large_model_needs():
    with pytest.raises(ConfigError) as caught:
        load("assistant", env={})
    assert str(caught.value) == (
        "profile assistant: set JETHRO_LARGE_URL and JETHRO_LARGE_MODEL to an OpenAI-compatible model (and "
        "JETHRO_LARGE_API_KEY to its key, if it needs one), or serve the small model alone with --small-only"
    )
    with pytest.raises(ConfigError, match="set JETHRO_LARGE_URL and"):
        load("assistant", env={"JETHRO_LARGE_MODEL": "m"})


def test_the_assistant_with_a_large_model_and_its_key():
    config = load("assistant", env=LARGE)
    small, large = config.pools["small"], config.pools["large"]
    assert (large.model, large.engine.urls, large.engine.api_key_env) == ("big", ("http://127.0.0.1:1/v1",), None)
    assert small.engine.path == "package:smollm2-135m-instruct"
    assert small.engine.max_tokens and not config.small_only
    with_key = load("assistant", env={**LARGE, "JETHRO_LARGE_API_KEY": "k-4711"})
    assert with_key.secrets() == {"JETHRO_LARGE_API_KEY": "pools.large.engine.api_key_env"}
    assert "k-4711" not in with_key.model_dump_json()


def test_the_assistant_alone():
    config = load("assistant", env={}, small_only=True)
    assert list(config.pools) == ["small"] and config.small_only
    assert config.routing.router == "random" and config.routing.offered == ()
    assert config.routed_models == ("smollm2-135m-instruct", "smollm2-135m-instruct")


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_can_be_served_without_its_large_model(name):
    config = load(name, env={}, small_only=True)
    assert "large" not in config.pools and "small" in config.pools
    again = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert type(config).model_validate(again) == config


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("small_only: true", "small_only leaves out the pool large: remove pools.large, or small_only"),
        ("small_only: true\nrouting: {router: mine}", "remove pools.large and routing.router"),
        ("small_only: true\ncascade: {chain: there}", "remove pools.large and cascade.chain"),
    ],
)
def test_what_needs_a_large_model_contradicts_small_only(more, said, tmp_path):
    file = tmp_path / "my.yaml"
    pools = {name: {"model": name, "engine": {"kind": "openai", "urls": ["http://h"]}} for name in ("small", "large")}
    file.write_text(yaml.safe_dump({"pools": pools}) + more)
    with pytest.raises(ConfigError, match=said):
        load(str(file), env={})


def test_without_a_large_pool_both_ways_out_are_named(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("pools: {small: {model: m, engine: {kind: openai, urls: ['http://h']}}}")
    with pytest.raises(ConfigError, match=r"pool large missing: .* add it, or set small_only: true"):
        load(str(file), env={})
    assert load(str(file), env={}, small_only=True).pools["small"].model == "m"
