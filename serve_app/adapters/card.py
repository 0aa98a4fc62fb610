"""What is known of an adapter: its name, the base model it is bound to, and the figures its trainer recorded."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve_app.adapters.files import ABOUT, CONFIG, WEIGHTS, AdapterFiles, read_files, read_json
from serve_app.config.adapters import ADAPTER_NAME
from serve_app.errors import InvalidAdapter

_NAME = re.compile(ADAPTER_NAME)
_HASH = re.compile(r"[0-9a-f]{64}")
_VERSION_DIGITS = 16
_AGAIN = "import the adapter again with `jethro adapter add`"


@dataclass(frozen=True, slots=True)
class AdapterAbout:
    """The content of `jethro_adapter.json`. `metrics`: measured by the trainer, JSON-ready."""

    name: str
    base: str
    base_sha256: str
    task: str | None = None
    licence: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    created: str | float | None = None
    data_sha256: str | None = None
    source: str | None = None
    """The folder or hub id that it was added from."""

    def to_json(self, rank: int) -> dict[str, Any]:
        """As it is written, with the rank for readers of the file."""
        return {
            "name": self.name,
            "base": self.base,
            "base_sha256": self.base_sha256,
            "task": self.task,
            "rank": rank,
            "licence": self.licence,
            "metrics": dict(self.metrics),
            "created": self.created,
            "data_sha256": self.data_sha256,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """One version of an adapter. `shipped`: it comes with the package. `pinned`: every replica keeps it in memory."""

    about: AdapterAbout
    version: str
    files: AdapterFiles
    shipped: bool = False
    pinned: bool = False

    @property
    def name(self) -> str:
        """The name that callers write after the model's."""
        return self.about.name

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.files.folder

    def to_json(self) -> dict[str, Any]:
        """For the API and the command line."""
        return {
            "id": self.name,
            "object": "adapter",
            "version": self.version,
            "base": self.about.base,
            "base_sha256": self.about.base_sha256,
            "task": self.about.task,
            "rank": self.files.rank,
            "parameters": self.files.parameters,
            "bytes": self.files.bytes,
            "licence": self.about.licence,
            "metrics": dict(self.about.metrics),
            "created": self.about.created,
            "data_sha256": self.about.data_sha256,
            "source": self.about.source,
            "shipped": self.shipped,
            "pinned": self.pinned,
        }


def valid_name(name: str) -> str:
    """The name. Raises InvalidAdapter for one that callers cannot write, or that is no plain folder name."""
    if not _NAME.fullmatch(name):
        raise InvalidAdapter(
            f"adapter name {name[:80]!r}: use a-z, 0-9, _ and -, beginning with a letter or digit, 64 at most",
            param="name",
        )
    return name


def read_card(folder: Path, *, shipped: bool = False, pinned: bool = False, version: str | None = None) -> AdapterCard:
    """The card of a folder that has `jethro_adapter.json`. `version` is computed where it is not known.

    Raises InvalidAdapter, naming the file and what to do.
    """
    about = read_about(folder)
    return AdapterCard(about, version or content_version(folder), read_files(folder), shipped, pinned)


def read_about(folder: Path) -> AdapterAbout:
    """What `jethro_adapter.json` says. Raises InvalidAdapter."""
    file = folder / ABOUT
    body = read_json(file, _AGAIN)
    name, base, sha256 = body.get("name"), body.get("base"), body.get("base_sha256")
    if not isinstance(name, str) or not isinstance(base, str) or not base:
        raise InvalidAdapter(f"{file}: name and base must be texts; {_AGAIN}")
    if not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
        raise InvalidAdapter(f"{file}: base_sha256 must be 64 hexadecimal digits; {_AGAIN}")
    metrics = body.get("metrics") or {}
    if not isinstance(metrics, dict):
        raise InvalidAdapter(f"{file}: metrics must be an object; {_AGAIN}")
    created = body.get("created")
    if not isinstance(created, str | float | int | None):
        raise InvalidAdapter(f"{file}: created must be a date or seconds since 1970; {_AGAIN}")
    texts = {key: body.get(key) for key in ("task", "licence", "data_sha256", "source")}
    for key, value in texts.items():
        if not isinstance(value, str | None):
            raise InvalidAdapter(f"{file}: {key} must be a text or null; {_AGAIN}")
    return AdapterAbout(valid_name(name), base, sha256, metrics=metrics, created=created, **texts)


def content_version(folder: Path) -> str:
    """Names the weights and their configuration: the same files have the same version. Raises InvalidAdapter."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as e:
            raise InvalidAdapter(f"{folder / name}: cannot be read ({e}); {_AGAIN}") from e
    return digest.hexdigest()[:_VERSION_DIGITS]
