"""The engine of a pool, by its kind. Engines are imported on demand: each needs its own heavy packages."""

import importlib
import importlib.util
from pathlib import Path
from typing import cast

from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.pools import PoolConfig
from serve_app.engines.base import Engine
from serve_app.engines.packaged import catalogue as packaged
from serve_app.errors import ConfigError, DependencyError, JethroError
from serve_app.learning.encoder import encoder_folder

_CLASSES = {
    "transformers": "serve_app.engines.transformers:HFEngine",
    "vllm": "serve_app.engines.vllm:VllmEngine",
    "encoder": "serve_app.engines.embedding.engine:EncoderEngine",
}
"""Kind to class; each is called with the id that callers see, the pool's engine settings, path resolved, and the
settings of the adapters' registry."""

_EXTRAS = {"transformers": "transformers", "vllm": "vllm", "encoder": "encoders"}
_MODULES = {"transformers": "transformers", "vllm": "vllm", "encoder": "transformers"}
"""Kind to extra, and to the module that it brings."""
_LAB = "lab:"


def build_engine(name: str, pool: PoolConfig, adapters: AdaptersConfig | None = None) -> Engine:
    """An engine that is not started yet, for the pool `name`; `adapters`: the registry, by default that of the config.

    Raises:
        ConfigError: a `lab:` or `package:` model that does not exist.
        DependencyError: the engine's extra is not installed.
    """
    settings = pool.engine
    path = getattr(settings, "path", None)
    if path is not None and path.startswith(_LAB):
        update: dict[str, object] = {"path": str(_lab_folder(name, path))}
        if settings.kind == "transformers":
            update["tool_prompt"] = "none"  # the lab's models have never read of tools, nor room for it
        settings = settings.model_copy(update=update)
    elif path is not None and path.startswith(packaged.PREFIX):
        settings = settings.model_copy(update={"path": str(_packaged_folder(name, path))})
    module, class_name = _CLASSES[settings.kind].split(":")
    try:
        engine_class = getattr(importlib.import_module(module), class_name)
    except ModuleNotFoundError as e:
        if e.name is None or e.name.startswith("serve_app"):
            raise
        raise _missing(name, e.name, settings.kind) from e
    return cast(Engine, engine_class(pool.model, settings, adapters))


def preflight(name: str, pool: PoolConfig, adapters: AdaptersConfig | None = None) -> None:
    """Check on this machine, without loading anything, that the engine can start.

    Raises ConfigError for a missing folder of a model or a pinned adapter that is not in the registry, DependencyError
    for an extra that is not installed.
    """
    settings = pool.engine
    module = _MODULES.get(settings.kind)
    if module is not None and importlib.util.find_spec(module) is None:
        raise _missing(name, module, settings.kind)
    path = getattr(settings, "path", None)
    if settings.kind == "encoder":
        encoder_folder(settings.path, f"pools.{name}.engine.path")
    elif path is not None and path.startswith(_LAB):
        _lab_folder(name, path)
    elif path is not None and path.startswith(packaged.PREFIX):
        _packaged_folder(name, path)
    elif path is not None:
        _check_model(f"pools.{name}.engine.path", path, safetensors=settings.kind == "transformers")
    cache = getattr(settings, "adapters", None)
    if cache is not None and cache.pinned:
        _check_pinned(
            f"pools.{name}.engine.adapters.pinned", cache.pinned, AdapterRegistry(adapters or AdaptersConfig())
        )


def _check_pinned(key: str, names: tuple[str, ...], registry: AdapterRegistry) -> None:
    """Raises ConfigError for a name that the registry does not have, or a damaged adapter."""
    for name in names:
        try:
            registry.get(name)
        except JethroError as e:
            raise ConfigError(f"{key}: {e}") from e


def _check_model(key: str, path: str, *, safetensors: bool) -> None:
    """Raises ConfigError for a folder that holds no model, and for an id that is not available without a network."""
    _check_folder(key, path, "in Hugging Face format or a model id")
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{key}: {path}: no config.json in it; use a folder in Hugging Face format")
        if safetensors and not any(folder.glob("*.safetensors")):
            raise ConfigError(
                f"{key}: {path}: no *.safetensors in it, and weights in other formats may run code: save the model "
                "with `save_pretrained`"
            )
        return
    from huggingface_hub import constants, try_to_load_from_cache  # the engine's extra brings it

    try:
        cached = isinstance(try_to_load_from_cache(path, "config.json"), str)
    except ValueError as e:  # of its own kind for what is no id
        raise ConfigError(
            f"{key}: {path}: no such folder, and no Hugging Face id (NAME or OWNER/NAME); use one of the two"
        ) from e
    if constants.HF_HUB_OFFLINE and not cached:
        raise ConfigError(
            f"{key}: {path}: no such folder, and not in Hugging Face's cache, while HF_HUB_OFFLINE forbids to download "
            "it; download it before, or unset the variable"
        )


def _check_folder(key: str, path: str, kind: str) -> None:
    """Raises ConfigError for what can only be a folder, and is none."""
    if path.startswith(("/", "./", "../", "~")) and not Path(path).expanduser().is_dir():
        raise ConfigError(f"{key}: {path}: no such folder; use a folder {kind}")


def _missing(name: str, module: str, kind: str) -> DependencyError:
    package = f"jethro[{_EXTRAS[kind]}]" if kind in _EXTRAS else "jethro"
    return DependencyError(f'pools.{name}.engine.kind: {module} is not installed; pip install "{package}"')


def _packaged_folder(name: str, path: str) -> Path:
    """Raises ConfigError for a model that no package brings, or that is not in the cache yet."""
    model = packaged.find(path, f"pools.{name}.engine.path")
    if not packaged.is_ready(model):
        raise ConfigError(
            f"pools.{name}.engine.path: {path} is not on this machine yet (no {packaged.folder_of(model)}): "
            f"run `jethro model fetch {model.name}`, as `jethro serve` does by itself"
        )
    return packaged.folder_of(model)


def _lab_folder(name: str, path: str) -> Path:
    from serve_app.lab import models_dir

    folder = models_dir() / path.removeprefix(_LAB)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"pools.{name}.engine.path: {path}: no model in {folder}; use lab:small or lab:large, "
            "or train them with `jethro lab build`"
        )
    return folder
