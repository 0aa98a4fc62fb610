"""The base model that an adapter belongs to: where its files are, the hash of its weights, its modules' shapes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from serve_app.adapters.files import AdapterFiles
from serve_app.errors import InvalidAdapter
from serve_app.lab import models_dir

_LAB = "lab:"
_READ_BYTES = 1 << 20
_SHOWN = 12
"""Digits of a hash in messages."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model with its files on this machine. `name` is a model id, a folder, or one of the embedded models."""

    name: str
    folder: Path

    @property
    def sha256(self) -> str:
        """Over the bytes of its `*.safetensors`, in the order of their names. Slow for a large model the first time.

        Raises InvalidAdapter if a file cannot be read.
        """
        files = self._files()
        try:
            return _hashed(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))
        except OSError as e:
            raise InvalidAdapter(f"{self.folder}: the base model {self.name} cannot be read ({e})") from e

    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """By linear module, its [outputs, inputs], as its checkpoint has them."""
        found: dict[str, tuple[int, int]] = {}
        for file in self._files():
            try:
                with safe_open(file, "np") as tensors:
                    for key in tensors.keys():  # noqa: SIM118 - no mapping
                        shape = list(tensors.get_slice(key).get_shape())
                        if key.endswith(".weight") and len(shape) == 2:
                            found[key.removesuffix(".weight")] = (shape[0], shape[1])
            except (SafetensorError, OSError, ValueError) as e:
                raise InvalidAdapter(f"{file}: the base model {self.name} cannot be read ({e})") from e
        return found

    @property
    def parameters(self) -> int:
        """Weights in all files, from their headers. Raises InvalidAdapter if one cannot be read."""
        return _counted(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in self._files()))

    def _files(self) -> list[Path]:
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise InvalidAdapter(
                f"{self.folder}: the base model {self.name} has no *.safetensors, so that no adapter can be bound to "
                "it: save it with `save_pretrained`"
            )
        return files


def find_base(name: str) -> BaseModel | None:
    """The base model of that name if its files are on this machine: embedded, in a folder, or in the hub's cache."""
    if name.startswith(_LAB):
        folder: Path | None = models_dir() / name.removeprefix(_LAB)
    else:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            folder = _cached(name)
    if folder is None or not any(folder.glob("*.safetensors")):
        return None
    return BaseModel(name, folder)


def known_base(name: str) -> BaseModel:
    """As `find_base`. Raises InvalidAdapter if the files are not on this machine."""
    base = find_base(name)
    if base is None:
        raise InvalidAdapter(
            f"base model {name[:200]!r}: no weights of it are on this machine; give the pool or the folder that holds "
            "them, or download them first"
        )
    return base


def check_shapes(files: AdapterFiles, shapes: Mapping[str, tuple[int, int]], name: str) -> None:
    """Raises InvalidAdapter for a module that the base model `name` does not have, or has in another shape."""
    for module, shape in files.modules.items():
        known = shapes.get(module)
        if known is None:
            raise InvalidAdapter(
                f"{files.folder}: changes the module {module[:120]}, which {name} does not have: the adapter is of "
                "another model"
            )
        if known != (shape.outputs, shape.inputs):
            raise InvalidAdapter(
                f"{files.folder}: {module} takes {shape.inputs} and returns {shape.outputs}, but in {name} it takes "
                f"{known[1]} and returns {known[0]}: the adapter is of another model"
            )


def mismatch(adapter: str, bound: tuple[str, str], base: tuple[str, str]) -> InvalidAdapter:
    """The error for an adapter of another base; both are (name, hash)."""
    theirs, ours = f"{bound[1][:_SHOWN]}…", f"{base[1][:_SHOWN]}…"
    if bound[0] == base[0]:
        return InvalidAdapter(
            f"adapter {adapter!r} was trained on another version of {bound[0]} (weights {theirs}, here {ours}): train "
            "it again on this version, or serve the version it was trained on",
            param="model",
        )
    return InvalidAdapter(
        f"adapter {adapter!r} belongs to {bound[0]} (weights {theirs}) and not to {base[0]} (weights {ours}): request "
        "it from a pool that runs its base model, or train it on this one",
        param="model",
    )


@lru_cache(maxsize=64)
def _hashed(files: tuple[tuple[str, int, int], ...]) -> str:
    """Remembered by path, size and time of change."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with Path(path).open("rb") as opened:
            while block := opened.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _counted(files: tuple[tuple[str, int, int], ...]) -> int:
    """Remembered by path, size and time of change."""
    count = 0
    for path, _, _ in files:
        try:
            with safe_open(path, "np") as tensors:
                count += sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as e:
            raise InvalidAdapter(f"{path}: the weights of the base model cannot be read ({e})") from e
    return count


def _cached(name: str) -> Path | None:
    """The folder of a hub id in the hub's cache; None if it is none, or not there."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # then no engine here runs a hub's model either
        return None
    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no id at all
        return None
    return Path(found).parent if isinstance(found, str) else None
