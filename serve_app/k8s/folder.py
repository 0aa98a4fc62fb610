"""Rendered folders on disk, and built at once for who wants the objects alone."""

import os
import tempfile
from pathlib import Path

from serve_app.config import Config
from serve_app.errors import ConfigError
from serve_app.k8s.kustomize import build
from serve_app.k8s.render import Wanted, render


def written(config: Config, wanted: Wanted, tree: Path, folder: Path) -> list[str]:
    """Write a kustomize folder; the names of its files. Raises ConfigError if `tree` holds no base."""
    _base(tree)
    files = render(config, wanted, os.path.relpath(tree.resolve(), folder.resolve()))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return list(files)


def printed(config: Config, wanted: Wanted, tree: Path) -> str:
    """The objects as one YAML stream. Raises ConfigError as `written` and `kustomize.build` do."""
    _base(tree)
    # beside the base, since kustomize takes folders by relative paths only
    with tempfile.TemporaryDirectory(prefix=".rendered-", dir=tree) as folder:
        written(config, wanted, tree, Path(folder))
        return build(Path(folder))


def _base(tree: Path) -> None:
    if not (tree / "base" / "kustomization.yaml").is_file():
        raise ConfigError(f"{tree}: no base/kustomization.yaml in it; give the repository's folder k8s with --tree")
