"""The overlays as built by the real kustomize, once for each session of tests."""

import copy
from functools import cache
from pathlib import Path

import pytest

from serve_app.k8s.documents import Document, build, parse, tool
from serve_app.k8s.render import RenderOptions

OPTIONS = {
    "cpu": RenderOptions("cpu"),
    "gpu": RenderOptions("gpu"),
    "ha": RenderOptions("ha"),
    "own": RenderOptions("gpu", image="registry.partner.test/jethro:0.1.0-gpu"),
}
"""The committed folders, and how each is rendered."""
ROOT = Path(__file__).parents[2]
TREE = ROOT / "k8s"
NEEDS_KUSTOMIZE = pytest.mark.skipif(tool() is None, reason="neither kustomize nor kubectl is installed")


@cache
def _built(overlay: str) -> tuple[Document, ...]:
    return tuple(parse(overlay, build(TREE / "overlays" / overlay)))


def documents(overlay: str) -> list[Document]:
    """A copy to change as a test likes."""
    return copy.deepcopy(list(_built(overlay)))


def one(found: list[Document], kind: str, name: str | None = None) -> Document:
    """The document of that kind."""
    return next(d for d in found if d.kind == kind and name in (None, d.name))
