"""Reading the config: profiles, files, overrides, and messages that say what to write instead."""

from pathlib import Path

import pytest
import yaml

from serve_app.config import Config, caller_key, check_file, load, profile_names, secret, source_name
from serve_app.config.engines import OpenAISettings, TransformersSettings, VllmSettings
from serve_app.config.load import TRACE_HEADERS, keep_secrets, trace_export
from serve_app.errors import ConfigError
from serve_app.front.settings import FOLDER

GOOD = """
pools:
  small:
    model: tiny
    engine: {kind: transformers, path: "lab:small"}
  large:
    model: big
    engine: {kind: openai, urls: ["http://127.0.0.1:1/v1"]}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="jethro.yaml"):
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return str(path)

    return write


def mistakes(write, text):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        check_file(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


LARGE = {"JETHRO_LARGE_URL": "http://127.0.0.1:1/v1", "JETHRO_LARGE_MODEL": "big"}
"""What the profile `assistant` takes from the environment."""


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid(name):
    config = load(name, env=LARGE)
    assert {"small", "large"} <= set(config.pools)
    assert config.server.host == "127.0.0.1"


def test_the_profiles_are_those_that_are_promised():
    assert profile_names() == ["assistant", "ensemble", "gpu", "lab", "lab-vllm", "remote"]
    engines = {name: type(load(name, env=LARGE).pools["large"].engine) for name in profile_names()}
    assert engines == {
        "assistant": OpenAISettings,
        "ensemble": TransformersSettings,
        "gpu": VllmSettings,
        "lab": TransformersSettings,
        "lab-vllm": VllmSettings,
        "remote": OpenAISettings,
    }


def test_the_default_is_the_lab_and_the_environment_may_name_another():
    assert load(env={}) == load("lab", env={})
    assert load(env={"JETHRO_CONFIG": "remote"}) == load("remote", env={})
    assert load("gpu", env={"JETHRO_CONFIG": "remote"}) == load("gpu", env={})


def test_a_file_is_read_and_defaults_filled_in(write):
    config = check_file(write(GOOD))
    assert config.pools["small"].model == "tiny"
    assert config.pools["large"].remote
    assert not config.pools["small"].remote
    assert config.server.port == 8000


def test_the_tree_is_frozen(write):
    config = check_file(write(GOOD))
    with pytest.raises(ValueError, match="frozen"):
        config.server.port = 1


def test_a_dumped_config_is_the_same_config_again():
    for name in profile_names():
        config = load(name, env=LARGE)
        assert Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "sever: {}", "sever: unknown key (value a mapping of nothing); did you mean server?"),
        (GOOD + "server: {prot: 8001}", "server.prot: unknown key (value 8001); did you mean port?"),
        (
            GOOD + "limits: {zzz: 1}",
            "limits.zzz: unknown key (value 1); remove it; known keys: body_bytes, image_",
        ),
        (GOOD.replace("    model: tiny\n", ""), "pools.small.model: missing; add it"),
        (GOOD.replace("model: tiny", "model: tiny\n    pirce: {}"), "did you mean price?"),
        (GOOD.replace('"lab:small"}', '"lab:small", devcie: cpu}'), "pools.small.engine.devcie: unknown key"),
        (GOOD.replace('"lab:small"}', '"lab:small", devcie: cpu}'), "did you mean device?"),
        (GOOD + "server: {keys: [{name: a, envv: B}]}", "server.keys.0.envv: unknown key"),
        (GOOD + "server: {keys: [{name: a, envv: B}]}", "did you mean env?"),
    ],
)
def test_unknown_keys_at_every_level_are_named_with_what_was_meant(write, text, said):
    assert said in "\n".join(mistakes(write, text))


def test_a_misspelled_key_is_one_mistake(write):
    text = GOOD.replace("model: tiny", "modle: tiny")
    assert mistakes(write, text) == ["pools.small.modle: unknown key (value 'tiny'); did you mean model?"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "server: {port: high}", "server.port: Input should be a valid integer"),
        (GOOD + "server: {port: high}", "(value 'high')"),
        (GOOD + "server: {port: 70000}", "less than or equal to 65535"),
        (GOOD + "routing: {threshold: 1.5}", "routing.threshold: Input should be less than or equal to 1"),
        (GOOD + "routing: {threshold: 0.5, strong_share: 0.3}", "threshold and strong_share contradict each other"),
        (GOOD + "server: {host: 0.0.0.0}", "without keys is refused: add server.keys"),
        (GOOD + "server: [1]", "server: Input should be"),
        (GOOD + "log: {level: loud}", "'debug', 'info', 'warning' or 'error'"),
        (GOOD.replace("kind: openai", "kind: opnai"), "pools.large.engine: Input tag 'opnai'"),
        (GOOD.replace("model: big", "model: tiny"), "model id tiny: ids must differ"),
        (GOOD.replace("model: big", "model: jethro-x"), "not begin with jethro"),
        (GOOD.replace("  large:", "  lage:"), "pool large missing"),
        (GOOD.replace("model: big", "model: big\n    replicas: {min: 3, max: 2}"), "min 3 is above max 2"),
        (GOOD.replace("model: big", "model: big\n    replicas: true"), "pools.large.replicas: "),
        ("server: {}", "pools: missing; add it"),
        ("", "must be a mapping with the key pools, got NoneType"),
        ("[1, 2]", "must be a mapping with the key pools, got list"),
        ("pools: {a: ]", "not valid YAML"),
        (GOOD + "server: {port: 1}\nserver: {port: 2}", "key 'server' is given twice"),
        (GOOD + "log: {level: info, level: debug}", "key 'level' is given twice"),
    ],
)
def test_wrong_values_are_named_with_key_and_mend(write, text, said):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        check_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("api.example.com/v1", "with its scheme"),
        ("localhost:8000/v1", "with its scheme"),
        ("ftp://x/v1", "with its scheme"),
        ("http://x/v 1", "no blanks"),
        ("http://x/v1\\n", "no blanks"),
        ("http:///v1", "needs a host"),
        ("http://x:0/v1", "needs a host, and a port"),
        ("http://x:99999/v1", "needs a host, and a port"),
        ("http://x:/v1", "needs a host, and a port"),
        ("http://x:port/v1", "needs a host, and a port"),
        ("https://me:s3cret@x/v1", "no user and password"),
        ("https://x/v1#top", "fragment"),
        ("https://a..b/v1", "no name or address"),
        (f"https://{'a' * 64}.com/v1", "no name or address"),
        ("https://a\\\\b/v1", "no name or address"),
    ],
)
def test_wrong_urls_are_refused_with_the_fix(write, url, said):
    (found,) = mistakes(write, GOOD.replace("http://127.0.0.1:1/v1", url))
    assert found.startswith("pools.large.engine.urls.0: ") and said in found
    assert "s3cret" not in found


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("https://x/v1/", "https://x/v1"),
        ("https://x/v1/chat/completions", "https://x/v1"),
        ("https://x/v1/completions/", "https://x/v1"),
        ("https://x/d/m/chat/completions?api-version=1", "https://x/d/m?api-version=1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://x", "http://x"),
    ],
)
def test_urls_are_base_urls_and_keep_their_query(write, url, used):
    engine = check_file(write(GOOD.replace("http://127.0.0.1:1/v1", url))).pools["large"].engine
    assert isinstance(engine, OpenAISettings) and engine.urls == (used,)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model: big", 'model: ""', "pools.large.model: a model's name"),
        ("model: big", 'model: "a\\tb"', "pools.large.model: a model's name"),
        ("model: big", "model: big\n    price: {input_usd_per_million: -1}", "greater than or equal to 0"),
        ("model: big", "model: big\n    price: {input_usd_per_million: .nan}", "finite"),
        ("model: big", "model: big\n    price: {output_usd_per_million: .inf}", "finite"),
        ('/v1"]', '/v1"], proxy: "socks5://x:1"', "with its scheme"),
        ('/v1"]', '/v1"], proxy: "http://u:s3cret@x:1"', "no user and password"),
        ('/v1"]', '/v1"], upstream_model: " "', "upstream_model: a model's name"),
    ],
)
def test_names_prices_and_proxies_are_checked(write, old, new, said):
    (found,) = mistakes(write, GOOD.replace(old, new))
    assert said in found and "s3cret" not in found


def test_the_home_folder_may_be_written_short(write, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    config = check_file(write(GOOD + 'store: {path: "~/log.sqlite3"}\nrouting: {registry: "~/routers"}\n'))
    assert (config.store.path, config.routing.registry) == ("/h/log.sqlite3", "/h/routers")


def test_all_mistakes_are_told_at_once(write):
    found = mistakes(write, GOOD + "server: {port: x, prot: 1}\nlog: {levle: info}\n")
    assert sorted(line.split(":")[0] for line in found) == ["log.levle", "server.port", "server.prot"]


def test_a_pool_may_bear_the_name_of_an_engine_and_is_named_so(write):
    text = GOOD + "  vllm:\n    model: third\n    engine: {kind: vllm}\n"
    assert [m.partition(";")[0] for m in mistakes(write, text)] == ["pools.vllm.engine.path: missing"]


@pytest.mark.parametrize("name", ["vllm", "transformers", "openai"])
def test_keys_of_every_engine_are_suggested(write, name):
    need = {
        "openai": "urls: [x], retires: 1",
        "vllm": "path: x, tensor_paralel: 1",
        "transformers": "path: x, dytpe: 1",
    }
    meant = {"openai": "retries", "vllm": "tensor_parallel", "transformers": "dtype"}
    text = GOOD + f"  third:\n    model: third\n    engine: {{kind: {name}, {need[name]}}}\n"
    assert f"did you mean {meant[name]}?" in "\n".join(mistakes(write, text))


def test_a_secret_in_the_file_is_refused_and_never_printed(write):
    text = GOOD.replace('/v1"]}', '/v1"], api_key: topsecret}')
    found = mistakes(write, text)
    assert [m.partition(" (")[0] for m in found] == ["pools.large.engine.api_key: unknown key"]
    assert "api_key_env" in found[0]
    wrong_kind = "\n".join(mistakes(write, text.replace("kind: openai", "kind: nobody")))
    assert "topsecret" not in wrong_kind


def test_long_values_are_cut(write):
    (found,) = mistakes(write, GOOD + f"server: {{port: {'x' * 500}}}")
    assert len(found) < 250


def test_a_missing_file_and_an_unknown_profile_say_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file.*ensemble, gpu, lab, lab-vllm, remote"):
        load(str(tmp_path / "none.yaml"), env={})
    with pytest.raises(ConfigError, match="lab-vllm"):
        load("lab-vlm", env={})
    with pytest.raises(ConfigError, match="gpu"):
        load("zzzzzz", env={})


def test_a_folder_or_broken_bytes_are_no_config(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("folder.yaml", "bytes.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(str(tmp_path / name), env={})


def test_yaml_that_would_run_code_is_refused(write):
    with pytest.raises(ConfigError, match="not valid YAML"):
        check_file(write("pools: !!python/object/apply:os.getcwd []"))


def test_the_environment_overrides_the_file(write):
    env = {
        "JETHRO__SERVER__PORT": "9000",
        "JETHRO__POOLS__SMALL__MODEL": "other",
        "JETHRO__STORE__KEEP_PROMPTS": "true",
        "JETHRO__ROUTING__STRONG_SHARE": "0.25",
        "OTHER": "x",
    }
    config = load(write(GOOD), env=env)
    assert config.server.port == 9000
    assert config.pools["small"].model == "other"
    assert config.store.keep_prompts is True
    assert config.routing.strong_share == 0.25


def test_settings_win_over_the_environment_over_the_file(write):
    path = write(GOOD + "server: {port: 1}")
    env = {"JETHRO__SERVER__PORT": "2"}
    assert load(path, env={}).server.port == 1
    assert load(path, env=env).server.port == 2
    assert load(path, env=env, settings={"server.port": "3"}).server.port == 3


def test_check_file_ignores_overrides(write, monkeypatch):
    monkeypatch.setenv("JETHRO__SERVER__PORT", "9000")
    path = write(GOOD)
    assert check_file(path).server.port == 8000
    assert load(path).server.port == 9000


@pytest.mark.parametrize(
    ("env", "settings", "said"),
    [
        ({"JETHRO__SERVER__PROT": "1"}, {}, "environment variable JETHRO__SERVER__PROT: server.prot: unknown key"),
        ({"JETHRO__SERVER__PORT": "["}, {}, "environment variable JETHRO__SERVER__PORT: not valid YAML"),
        ({"JETHRO__SERVER__PORT__X": "1"}, {}, "server.port: "),
        ({"JETHRO__SERVER": "5"}, {}, "server: Input should be"),
        ({"JETHRO__": "1"}, {}, "a part of the key is empty"),
        ({}, {"server.port": "x"}, "setting server.port: server.port: Input should be a valid integer"),
        ({}, {"pools.small.model.x": "1"}, "setting pools.small.model.x: model is not a branch (value 'tiny')"),
        ({}, {"a..b": "1"}, "a part of the key is empty"),
    ],
)
def test_a_wrong_override_is_named_by_its_origin(write, env, settings, said):
    with pytest.raises(ConfigError) as caught:
        load(write(GOOD), env=env, settings=settings)
    assert said in str(caught.value)


def test_secrets_come_by_reference():
    assert secret("KEY", used_by="server.keys (a)", env={"KEY": " s3cret\n"}) == "s3cret"
    for env in ({}, {"KEY": "  "}):
        with pytest.raises(ConfigError, match=r"server.keys \(a\): .*KEY"):
            secret("KEY", used_by="server.keys (a)", env=env)


def test_the_callers_key_is_optional():
    assert caller_key(env={}) is None
    assert caller_key(env={"JETHRO_API_KEY": " "}) is None
    assert caller_key(env={"JETHRO_API_KEY": "k"}) == "k"


def test_a_branch_may_be_merged_into_another(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "pools:\n"
        "  small: {model: a, engine: &e {kind: transformers, path: x, threads: 2}}\n"
        "  large: {model: b, engine: {<<: *e, path: y}}\n"
    )
    large = load(str(file), env={}).pools["large"].engine
    assert (large.path, large.threads) == ("y", 2)


def test_a_source_is_called_what_it_is(tmp_path, monkeypatch):
    assert source_name("my.yaml", {}) == "my.yaml"
    assert (source_name("gpu", {}), source_name(None, {})) == ("profile gpu", "profile lab")
    assert source_name(None, {"JETHRO_CONFIG": "own.yaml"}) == "own.yaml"


@pytest.mark.parametrize(
    ("env", "exporter", "headers"),
    [
        ({}, "otlp", None),
        ({"OTEL_TRACES_EXPORTER": " Console "}, "console", None),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, "none", None),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=1,B=x%3Dy"}, "otlp", {"a": "1", "b": "x=y"}),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=1", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "c=2"}, "otlp", {"c": "2"}),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "otlp", None),
    ],
)
def test_traces_leave_as_opentelemetrys_variables_say(env, exporter, headers):
    found = trace_export(env)
    assert (found.exporter, found.headers) == (exporter, headers)
    assert "1" not in repr(found)


def test_a_collectors_key_leaves_the_environment_with_the_other_secrets(tmp_path):
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cret", FOLDER: str(tmp_path)}
    keep_secrets(TRACE_HEADERS, tmp_path, env)
    assert env == {FOLDER: str(tmp_path)}
    assert trace_export(env).headers == {"authorization": "Bearer s3cret"}
