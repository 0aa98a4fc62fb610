"""The engine of a pool, by its kind. Engines are imported when asked for: each needs heavy packages of its own."""

import importlib
from pathlib import Path
from typing import cast

from serve_app.config.tree import PoolConfig
from serve_app.engines.base import Engine
from serve_app.errors import ConfigError, DependencyError

_CLASSES = {
    "transformers": "serve_app.engines.transformers:HFEngine",
    "vllm": "serve_app.engines.vllm:VllmEngine",
    "openai": "serve_app.engines.openai:OpenAIEngine",
}
"""Kind to class; each is called with the id that callers see and the pool's engine settings, path resolved."""

_EXTRAS = {"transformers": "transformers", "vllm": "vllm", "openai": "serve"}
_LAB = "lab:"


def build_engine(name: str, pool: PoolConfig) -> Engine:
    """An engine that is not started yet, for the pool `name`.

    Raises:
        ConfigError: a `lab:` model that does not exist.
        DependencyError: the engine's extra is not installed.
    """
    settings = pool.engine
    path = getattr(settings, "path", None)
    if path is not None and path.startswith(_LAB):
        settings = settings.model_copy(update={"path": str(_lab_folder(name, path))})
    module, class_name = _CLASSES[settings.kind].split(":")
    try:
        engine_class = getattr(importlib.import_module(module), class_name)
    except ModuleNotFoundError as e:
        if e.name is None or e.name.startswith("serve_app"):
            raise
        extra = _EXTRAS[settings.kind]
        raise DependencyError(f'pool {name}: {e.name} is not installed; pip install "jethro[{extra}]"') from e
    return cast(Engine, engine_class(pool.model, settings))


def _lab_folder(name: str, path: str) -> Path:
    from serve_app.lab import models_dir

    folder = models_dir() / path.removeprefix(_LAB)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"pools.{name}.engine.path: {path}: no model in {folder}; use lab:small or lab:large, "
            "or train them with `jethro lab build`"
        )
    return folder
