"""The engines that the conformance suite runs, by name: how to make one, not started. Add yours to `ENGINES`."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serve_app.engines.base import Engine
from serve_app.lab import models_dir
from tests.fakes import FakeEngine
from tests.models import save_random_model, settings_for


@dataclass(frozen=True)
class Maker:
    """`make(tmp)` returns the engine; `skip(…)` a reason not to run it here, or nothing."""

    make: Callable[[Path], Engine]
    skip: Callable[[], str] = lambda: ""
    marks: tuple[Any, ...] = ()


def _transformers(folder: Path) -> Engine:
    from serve_app.engines.transformers import HFEngine

    return HFEngine("the-model", settings_for(folder))


def _vllm(folder: Path) -> Engine:
    from serve_app.engines.vllm import VllmEngine
    from tests.engines.vllm_lab import MODEL, registry, settings

    return VllmEngine(MODEL, settings(folder), registry(folder))


def _no_vllm() -> str:
    return "" if importlib.util.find_spec("vllm") else "vLLM is not installed"


def _no_lab(name: str) -> str:
    return "" if (models_dir() / name / "config.json").is_file() else f"lab:{name} is not trained yet"


ENGINES: dict[str, Maker] = {
    "fake": Maker(lambda tmp: FakeEngine()),
    "transformers-random": Maker(lambda tmp: _transformers(save_random_model(tmp))),
    "transformers-lab-small": Maker(lambda tmp: _transformers(models_dir() / "small"), lambda: _no_lab("small")),
    "transformers-lab-large": Maker(lambda tmp: _transformers(models_dir() / "large"), lambda: _no_lab("large")),
    "vllm": Maker(
        _vllm,
        _no_vllm,
        # the warnings are of vLLM's and torch's own code, at import and while they run
        (pytest.mark.vllm, pytest.mark.filterwarnings("ignore")),
    ),
}


def params() -> list[Any]:
    """The engines as pytest parameters."""
    return [pytest.param(name, marks=maker.marks, id=name) for name, maker in ENGINES.items()]
