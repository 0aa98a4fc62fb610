"""The core schemas are read anew for every object, which is nothing for one check and much for hundreds."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from serve_app.k8s import schema

_core = schema._core


@cache
def _remembered(text: str) -> tuple[str, ...]:
    return tuple(_core(json.loads(text)))


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering looks at routers in the working directory, where a checkout may have some."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def remembered_core_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def core(body: dict[str, Any]) -> tuple[str, ...]:
        return _remembered(json.dumps(body))

    monkeypatch.setattr(schema, "_core", core)
