"""Adapters by name: a folder that the command line and the API write to, and every Gateway and replica looks at.

    <folder>/<name>/<version>/   the adapter's files; never changed once they are there
    <folder>/<name>/current      the version that serves; replaced whole
    <folder>/<name>/pinned       there while every replica is to keep the adapter in memory

An adapter's own folder put there as <folder>/<name> serves as well, as long as there is no `current`.

Because replicas read this folder, and are not called one by one, an adapter that was added is on all of them, on those
that start later too. Adapters that ship with the package are listed as well.
"""

import asyncio
import fcntl
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import orjson

from serve_app.adapters.base_model import BaseModel, check_shapes, find_base, known_base, mismatch
from serve_app.adapters.card import AdapterAbout, AdapterCard, content_version, read_about, read_card, valid_name
from serve_app.adapters.files import ABOUT, CONFIG, WEIGHTS, AdapterFiles, read_files
from serve_app.config.adapters import AdaptersConfig
from serve_app.errors import Conflict, InvalidAdapter, JethroError, ModelNotFound
from serve_app.files import sync_folder, write_whole
from serve_app.lab import models_dir

_CURRENT, _PINNED, _LOCK = "current", "pinned", ".lock"
_MIB = 1 << 20


class AdapterRegistry:
    """The adapters of one folder, which need not exist yet. Safe for many processes and threads."""

    def __init__(self, settings: AdaptersConfig) -> None:
        self.settings = settings
        self.folder = Path(settings.registry)
        self._cards: dict[tuple[str, str], AdapterCard] = {}
        """Read before, by name and version: neither changes. For a folder of its own, by the times of its files."""
        self.faults: dict[str, str] = {}
        """By name, why an adapter of the folder cannot be used, as of the last look at all."""

    def all(self) -> dict[str, AdapterCard]:
        """Every adapter that can be used, by name; `faults` says why others cannot."""
        names = [f.name for f in _folders(self.folder)] + [f.name for f in _folders(shipped_dir())]
        cards, faults = {}, {}
        for name in sorted(set(names)):
            try:
                card = self.find(name)
            except InvalidAdapter as e:
                faults[name] = e.message
            else:
                if card is not None:
                    cards[name] = card
        self.faults = faults
        return cards

    def find(self, name: str) -> AdapterCard | None:
        """The version of a name that serves; None if there is no such adapter. Raises InvalidAdapter if it is damaged.

        Cheap for an adapter that was read before.
        """
        try:
            valid_name(name)
        except InvalidAdapter:
            return None
        shipped = shipped_dir() / name
        if (shipped / ABOUT).is_file():
            return self._read_own(name, shipped, shipped=True)
        version = self._current(name)
        while version is not None:
            try:
                return self._read(name, version, self.folder / name / version)
            except InvalidAdapter:
                before, version = version, self._current(name)
                if version == before:
                    raise
        own = self.folder / name
        return self._read_own(name, own) if (own / ABOUT).is_file() else None

    def get(self, name: str) -> AdapterCard:
        """As `find`. Raises ModelNotFound that lists what there is."""
        card = self.find(name)
        if card is None:
            raise ModelNotFound(
                f"no adapter {name[:80]!r}: there are {', '.join(self.all()) or 'none'}; add one with `jethro adapter "
                "add` or POST /v1/adapters",
                param="name",
            )
        return card

    def add(
        self,
        folder: Path,
        *,
        name: str | None = None,
        base: str | None = None,
        replacing: bool = False,
        pinned: bool = False,
        **about: Any,
    ) -> AdapterCard:
        """Check a folder in PEFT's format and copy it in; it serves from the next look of each replica on.

        `base` (a model id or folder with its weights on this machine) is required for a folder without
        `jethro_adapter.json`, which is then bound to these weights. `pinned`: every replica loads it at
        once and keeps it. `about`: `task`, `licence`, `metrics`, `source`.

        Raises InvalidAdapter for what cannot be served, Conflict if the name is taken and not `replacing`, OSError if
        the folder cannot be written.
        """
        files = read_files(folder)
        self._check_bounds(files)
        described = self._described(files, name, base, about)
        if (shipped_dir() / described.name / ABOUT).is_file():
            raise Conflict(f"adapter {described.name!r} ships with Jethro: give another name", param="name")
        with self._writing():
            if not replacing and self.find(described.name) is not None:
                raise Conflict(
                    f"there is an adapter {described.name!r}: remove it first, replace it, or give another name",
                    param="name",
                )
            self._serve(described.name, self._copy(folder, described, files.rank))
            if pinned:
                (self.folder / described.name / _PINNED).touch()
            return self.get(described.name)

    def remove(self, name: str) -> None:
        """Remove an adapter; requests that are open finish with it. Raises ModelNotFound, or Conflict if it ships."""
        if self.get(name).shipped:
            raise Conflict(f"adapter {name!r} ships with Jethro and cannot be removed", param="name")
        with self._writing():
            self.get(name)
            gone = Path(mkdtemp(prefix=".removed-", dir=self.folder))
            (self.folder / name).rename(gone / name)  # at once for readers
            shutil.rmtree(gone, ignore_errors=True)

    def pin(self, name: str, pinned: bool = True) -> AdapterCard:
        """Have every replica load an adapter and keep it, or no longer. Raises ModelNotFound, Conflict if it ships."""
        card = self.get(name)
        if card.shipped:
            raise Conflict(
                f"adapter {name!r} ships with Jethro: pin it in the config, with pools.NAME.engine.adapters.pinned",
                param="name",
            )
        with self._writing():
            card = self.get(name)
            mark = self.folder / name / _PINNED
            if pinned:
                mark.touch()
            else:
                mark.unlink(missing_ok=True)
            return replace(card, pinned=pinned)

    def check(self, card: AdapterCard, base: BaseModel, shapes: Mapping[str, tuple[int, int]] | None = None) -> None:
        """Whether an adapter may be loaded over a base: bounds, the base's hash, shapes, unchanged files.

        Raises InvalidAdapter with what to do. Slow for a large base the first time: call it in a thread.
        """
        self._check_bounds(card.files)
        sha256 = base.sha256
        if card.about.base_sha256 != sha256:
            raise mismatch(card.name, (card.about.base, card.about.base_sha256), (base.name, sha256))
        check_shapes(card.files, base.shapes() if shapes is None else shapes, base.name)
        if content_version(card.folder) != card.version:
            raise InvalidAdapter(
                f"adapter {card.name!r}: the files in {card.folder} have changed since it was added; add it again"
            )

    def _check_bounds(self, files: AdapterFiles) -> None:
        most = self.settings
        if files.rank > most.max_rank:
            raise InvalidAdapter(
                f"{files.folder}: rank {files.rank} is above adapters.max_rank ({most.max_rank}): raise that, or train "
                "the adapter with a lower rank"
            )
        if files.bytes > most.max_mib * _MIB:
            raise InvalidAdapter(
                f"{files.folder}: {WEIGHTS} has {files.bytes / _MIB:.1f} MiB, and adapters.max_mib allows "
                f"{most.max_mib}: raise it, or train the adapter with a lower rank or fewer modules"
            )

    def _described(
        self, files: AdapterFiles, name: str | None, base: str | None, about: Mapping[str, Any]
    ) -> AdapterAbout:
        """What is written about the adapter, checked against its base as far as that is on this machine."""
        given = {key: value for key, value in about.items() if value is not None}
        if (files.folder / ABOUT).is_file():
            found = read_about(files.folder)
            found = replace(found, name=valid_name(name) if name is not None else found.name, **given)
            model = known_base(base) if base is not None else find_base(found.base)
            if model is not None and model.sha256 != found.base_sha256:
                raise mismatch(found.name, (found.base, found.base_sha256), (model.name, model.sha256))
        elif name is None or base is None:
            raise InvalidAdapter(
                f"{files.folder}: has no {ABOUT}, so that its name and base model are not known: give a name and the "
                f"base{f' (it was trained on {files.base!r})' if files.base else ''}"
            )
        else:
            model = known_base(base)
            found = AdapterAbout(valid_name(name), base, model.sha256, created=round(time.time(), 3), **given)
        if model is not None:
            check_shapes(files, model.shapes(), model.name)
        return found

    def _copy(self, source: Path, about: AdapterAbout, rank: int) -> str:
        """The files as a new version, whole or not at all."""
        home = self.folder / about.name
        home.mkdir(parents=True, exist_ok=True)
        draft = Path(mkdtemp(prefix=".draft-", dir=home))
        try:
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(source / name, draft / name)
            version = content_version(draft)
            read_files(draft)  # what was copied is what was checked, also if the source changed meanwhile
            (draft / ABOUT).write_bytes(orjson.dumps(about.to_json(rank), option=orjson.OPT_INDENT_2))
            draft.chmod(0o755)
            try:
                draft.rename(home / version)
            except OSError:
                if not (home / version / WEIGHTS).is_file():
                    raise
                # the same weights again: what is said of them may differ
                write_whole(home / version / ABOUT, (draft / ABOUT).read_bytes())
                self._cards.pop((about.name, version), None)
            sync_folder(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return version

    def _serve(self, name: str, version: str) -> None:
        """Point `current` at a version, and delete those before the last one: a load of that may be under way."""
        home = self.folder / name
        before = self._current(name)
        write_whole(home / _CURRENT, f"{version}\n".encode())
        for old in _folders(home):
            if old.name not in (version, before):
                shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, of all processes that have the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _current(self, name: str) -> str | None:
        try:
            return (self.folder / name / _CURRENT).read_text("utf-8").strip() or None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as e:
            raise InvalidAdapter(f"{self.folder / name / _CURRENT}: cannot be read ({e}); add the adapter again") from e

    def _read(self, name: str, version: str, folder: Path) -> AdapterCard:
        """A card, read once: versions never change."""
        if Path(version).name != version or version.startswith("."):
            raise InvalidAdapter(f"{self.folder / name / _CURRENT}: names no version; add the adapter again")
        known = self._cards.get((name, version))
        if known is None:
            known = self._cards[name, version] = _named(read_card(folder, version=version), name)
        return self._marked(known)

    def _read_own(self, name: str, folder: Path, *, shipped: bool = False) -> AdapterCard:
        """The card of an adapter's folder itself, read again when a file of it has changed."""
        try:
            stats = [(folder / file).stat() for file in (CONFIG, WEIGHTS, ABOUT)]
        except OSError as e:
            raise InvalidAdapter(f"{folder}: cannot be read ({e}); add the adapter again") from e
        stamp = "/".join(f"{s.st_size}-{s.st_mtime_ns}" for s in stats)
        known = self._cards.get((name, stamp))
        if known is None:
            known = self._cards[name, stamp] = _named(read_card(folder, shipped=shipped), name)
        return known if shipped else self._marked(known)

    def _marked(self, card: AdapterCard) -> AdapterCard:
        pinned = (self.folder / card.name / _PINNED).exists()
        return card if card.pinned == pinned else replace(card, pinned=pinned)


async def follow_registry(look: Callable[[], Awaitable[None]], reload_s: float, logger: logging.Logger) -> None:
    """Call `look` every `reload_s` seconds until cancelled, once if that is 0; a failure is logged once."""
    last_error = ""
    while True:
        try:
            await look()
            last_error = ""
        except Exception as e:
            if repr(e) != last_error:
                trace = None if isinstance(e, JethroError | OSError) else e
                logger.error("the registry of adapters cannot be followed: %s", e, exc_info=trace)
                last_error = repr(e)
        if not reload_s:
            return
        await asyncio.sleep(reload_s)


def shipped_dir() -> Path:
    """Folder of the adapters that ship with the package, one folder each; it need not exist."""
    return models_dir().parent / "adapters"


def _named(card: AdapterCard, name: str) -> AdapterCard:
    if card.name != name:
        raise InvalidAdapter(f"{card.folder}: is the adapter {card.name!r} in the folder of {name!r}; add it again")
    return card


def _folders(folder: Path) -> list[Path]:
    try:
        return [f for f in folder.iterdir() if not f.name.startswith(".") and f.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
