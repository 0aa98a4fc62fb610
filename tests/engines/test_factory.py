import pytest

from serve_app.config.pools import PoolConfig
from serve_app.engines import factory
from serve_app.engines.factory import build_engine
from serve_app.errors import ConfigError, DependencyError
from tests.models import save_random_model


def pool(**engine) -> PoolConfig:
    return PoolConfig.model_validate({"model": "the-model", "engine": engine})


async def test_a_transformers_engine_by_folder(tmp_path):
    engine = build_engine("small", pool(kind="transformers", path=str(save_random_model(tmp_path))))
    await engine.start()
    assert engine.health().ok
    assert engine.model == "the-model"
    await engine.aclose()


def test_a_lab_model_that_does_not_exist_names_the_key_and_the_mend():
    with pytest.raises(ConfigError, match=r"pools\.small\.engine\.path: lab:huge.*jethro lab build"):
        build_engine("small", pool(kind="transformers", path="lab:huge"))


async def test_a_lab_path_becomes_the_packaged_folder(tmp_path, monkeypatch):
    save_random_model(tmp_path / "tiny")
    monkeypatch.setattr("serve_app.lab.models_dir", lambda: tmp_path)
    engine = build_engine("small", pool(kind="transformers", path="lab:tiny"))
    await engine.start()
    await engine.aclose()


def test_a_missing_extra_is_one_sentence_with_the_pip_line(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

    monkeypatch.setattr(factory.importlib, "import_module", missing)
    with pytest.raises(DependencyError, match=r'torch .*pip install "jethro\[transformers\]"'):
        build_engine("small", pool(kind="transformers", path="somewhere"))


def test_a_packaged_path_becomes_the_folder_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JETHRO_MODELS", str(tmp_path))
    settings = pool(kind="transformers", path="package:smollm2-135m-instruct")
    for check in (build_engine, factory.preflight):
        with pytest.raises(ConfigError, match=r"pools\.small\.engine\.path: .* run `jethro model fetch smollm2-135m-i"):
            check("small", settings)
    save_random_model(tmp_path / "smollm2-135m-instruct")
    factory.preflight("small", settings)
    assert build_engine("small", settings)._settings.path == str(tmp_path / "smollm2-135m-instruct")


def test_a_packaged_model_that_does_not_exist_names_the_key_and_those_that_do():
    with pytest.raises(
        ConfigError, match=r"pools\.large\.engine\.path: package:gpt: no packaged model .* smollm2-135m"
    ):
        build_engine("large", pool(kind="transformers", path="package:gpt"))
