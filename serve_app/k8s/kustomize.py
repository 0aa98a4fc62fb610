"""Builds a kustomize folder with the real tool, `kustomize` or `kubectl`, whichever is installed."""

import shutil
import subprocess
from pathlib import Path

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
        path = shutil.which(name)
        if path is not None:
            return [path, *words]
    return None
