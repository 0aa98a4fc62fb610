"""Kubernetes objects read from files and folders, each with the place it came from.

Builds a kustomize folder with the real tool, `kustomize` or `kubectl`, whichever is installed.
"""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serve_app.config.load import UniqueKeyLoader
from serve_app.errors import ConfigError


def build(folder: Path) -> str:
    """The YAML of all objects. Raises ConfigError if neither tool is there, or with what it says."""
    command = tool()
    if command is None:
        raise ConfigError(f"{folder}: neither kustomize nor kubectl is installed; one of them builds the folder")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise ConfigError(f"{folder}: {' '.join(command)} fails: {said[-1] if said else 'no word'}")
    return done.stdout


def tool() -> list[str] | None:
    """The command that builds a folder; None if there is none."""
    for name, words in (("kustomize", ["build"]), ("kubectl", ["kustomize"])):
        if (path := shutil.which(name)) is not None:
            return [path, *words]
    return None


@dataclass(frozen=True, slots=True)
class Document:
    """One object and how messages call it."""

    origin: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its kind, '' where it says none."""
        return str(self.body.get("kind", ""))

    @property
    def name(self) -> str:
        """Its metadata.name, '' where it says none."""
        metadata = self.body.get("metadata")
        return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.kind or 'object'} {self.name or 'without a name'}"


def read(places: Iterable[Path]) -> list[Document]:
    """All objects of files, of folders' *.yaml, and of what kustomize builds of folders that are kustomizations.

    Raises ConfigError if a place is not there, holds no object, or is not YAML with each key once.
    """
    found: list[Document] = []
    for place in places:
        if place.is_dir() and (place / "kustomization.yaml").is_file():
            found += parse(str(place), build(place))
        elif place.is_dir():
            files = sorted(place.glob("*.yaml"))
            found += [document for file in files for document in parse(str(file), file.read_text("utf-8"))]
        elif place.is_file():
            found += parse(str(place), place.read_text("utf-8"))
        else:
            raise ConfigError(f"{place}: no such file or folder")
    if not found:
        raise ConfigError(f"{', '.join(map(str, places))}: no Kubernetes object in it")
    return found


def parse(origin: str, text: str) -> list[Document]:
    """The objects of a YAML stream; empty documents are left out."""
    try:
        bodies = [body for body in yaml.load_all(text, Loader=UniqueKeyLoader) if body is not None]
    except yaml.YAMLError as e:
        raise ConfigError(f"{origin}: not valid YAML: {e}") from e
    for body in bodies:
        if not isinstance(body, dict):
            raise ConfigError(f"{origin}: a Kubernetes object must be a mapping, got {type(body).__name__}")
        if "pools" in body and "kind" not in body:
            raise ConfigError(
                f"{origin}: a config of Jethro, not a manifest: run `jethro k8s render --config {origin} --out FOLDER` "
                "and check that folder"
            )
    return [Document(origin, body) for body in bodies]
