"""Backup and restore of what an endpoint has learned and recorded: the decision log, the streams, the routers.

A backup is a folder with a manifest of every file's size and digest. It is made while the endpoint runs or not: the
decision log is copied as of one moment, with what is in its -wal file; a stream's checkpoints are never changed, and a
journal that is cut short is a shorter one. Restoring needs the endpoint stopped. It keeps the present files under
another name, and repeats the erasures that are known now: who was deleted since the backup stays deleted.
"""

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from serve_app import __version__
from serve_app.config.tree import Config
from serve_app.errors import ConfigError, reading, writing
from serve_app.files import sync_folder, write_whole
from serve_app.routing.artefact import read_card
from serve_app.store.database import Database
from serve_app.store.erasing import known_erasures
from serve_app.store.file import connect, journals
from serve_app.store.schema import check_format
from serve_app.streams.checkpoint import journals as stream_journals
from serve_app.streams.checkpoint import latest, lock_folder
from serve_app.streams.erasing import merge_erasures

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_STORE: Final = "store.sqlite3"
_TRIES: Final = 20
"""A Learner that writes a checkpoint deletes the oldest one: then the stream is copied again."""
_PAUSE_S: Final = 0.1
_BLOCK: Final = 2**20


@dataclass(frozen=True, slots=True)
class Places:
    """Where an endpoint keeps its state."""

    store: Path
    streams: Path
    routers: Path

    @classmethod
    def of(cls, config: Config) -> "Places":
        """Those of a config."""
        return cls(Path(config.store.path), Path(config.streams.folder), Path(config.routing.registry))


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What was copied: decisions (None: there is no decision log), streams, router versions, bytes in all."""

    decisions: int | None
    streams: int
    routers: int
    size_bytes: int

    def __str__(self) -> str:
        log = "no decision log" if self.decisions is None else f"{self.decisions:,} decisions"
        return f"{log}, {self.streams} streams, {self.routers} router versions; {self.size_bytes:,} bytes"


def back_up(places: Places, folder: Path) -> BackupReport:
    """Write a backup into `folder`, which must not exist yet: it appears whole or not at all.

    Raises ConfigError naming the file that cannot be read or written, or that is damaged.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: exists already; give the name of a new folder")
    part = folder.with_name(f".{folder.name}-{os.getpid()}.part")
    with writing(folder, "choose another folder"):
        part.mkdir(mode=0o700, parents=True)
        try:
            if places.store.is_file():
                _copy_store(places.store, part / _STORE)
            for path in _folders(places.streams):
                _copy_stream(path, part / "streams" / path.name)
            remembered = places.streams / "erasures.json"
            if remembered.is_file():
                _copy_file(remembered, part / "streams" / remembered.name)
            if places.routers.is_dir():
                hidden = shutil.ignore_patterns(".*")
                shutil.copytree(places.routers, part / "routers", ignore=hidden, copy_function=_copied)
            files = {str(path.relative_to(part)): _fingerprint(path) for path in _files(part)}
            manifest = {"format": FORMAT, "jethro": __version__, "made_s": time.time(), "files": files}
            write_whole(part / _MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
            report = check(part)
            part.rename(folder)
            sync_folder(folder.absolute().parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return report


def check(folder: Path) -> BackupReport:
    """Check that a backup is whole, and of formats that this version reads. Raises ConfigError naming the file."""
    manifest = _manifest(folder)
    found = {str(path.relative_to(folder)) for path in _files(folder)} - {_MANIFEST}
    if missing := sorted(manifest.keys() - found):
        raise ConfigError(f"{folder / missing[0]}: is missing ({len(missing)} files); take another backup")
    for name, (size, digest) in manifest.items():
        if _fingerprint(folder / name) != [size, digest]:
            raise ConfigError(f"{folder / name}: is not as it was when the backup was made; take another backup")
    streams = list(_folders(folder / "streams"))
    for path in streams:
        _check_stream(path)
    cards = list((folder / "routers").glob("*/*/card.json"))
    for card in cards:
        read_card(card.parent)
    store = folder / _STORE
    return BackupReport(
        _check_store(store) if store.exists() else None, len(streams), len(cards), sum(s for s, _ in manifest.values())
    )


def restore(places: Places, folder: Path, now_s: float) -> list[Path]:
    """Put a backup in the place of the present state; returns the files and folders that hold the latter now.

    What the backup does not have is left as it is. Raises ConfigError if the backup is damaged or the endpoint runs;
    nothing is changed then.
    """
    check(folder)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    kept: list[Path] = []
    with _stopped(places), writing(folder, "make room, and repeat the command"):
        if (folder / _STORE).is_file():
            kept += _restore_store(folder / _STORE, places.store, stamp)
        if (folder / "streams").is_dir():
            kept += _restore_streams(folder / "streams", places.streams, stamp)
        if (folder / "routers").is_dir():
            kept += _replace(folder / "routers", places.routers, stamp)
    return kept


def _copy_store(source: Path, copy: Path) -> None:
    """As of one moment, without holding up those who write."""
    try:
        with closing(connect(source)) as connection:
            check_format(connection, str(source))
            connection.execute("VACUUM INTO ?", (str(copy),))
        copy.chmod(0o600)
    except sqlite3.Error as e:
        raise ConfigError(f"{source}: cannot be copied ({e}): see `store.path`") from e


def _check_store(path: Path) -> int:
    try:
        with closing(connect(path)) as connection:
            check_format(connection, str(path))
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise ConfigError(f"{path}: is damaged ({found}); take another backup")
            return int(connection.execute("SELECT count(*) FROM decisions").fetchone()[0])
    except sqlite3.Error as e:
        raise ConfigError(f"{path}: cannot be read ({e}); take another backup") from e


def _copy_stream(source: Path, copy: Path) -> None:
    """The state at some moment of the copying: the checkpoints first, then the journals since."""
    for _ in range(_TRIES):
        copy.mkdir(parents=True)
        try:
            names = ["stream.json", *(path.name for path in source.glob("checkpoint-*.safetensors"))]
            for path in [*(source / name for name in names), *stream_journals(source).values()]:
                _copy_file(path, copy / path.name)
            _check_stream(copy)
        except (FileNotFoundError, ConfigError) as e:  # a checkpoint was written meanwhile
            failed: Exception = e
            shutil.rmtree(copy)
            time.sleep(_PAUSE_S)
        else:
            return
    raise ConfigError(f"{source}: cannot be copied ({failed}): look at `jethro stream list`, or delete the stream")


def _check_stream(path: Path) -> None:
    checkpoint = latest(path)
    if checkpoint is None:
        raise ConfigError(f"{path}: no checkpoint can be read; see the log")
    numbers = {n for n in stream_journals(path) if n >= checkpoint.number}
    if numbers and numbers != set(range(min(numbers), max(numbers) + 1)):
        raise ConfigError(f"{path}: a journal is missing")


def _restore_store(backup: Path, place: Path, stamp: str) -> list[Path]:
    place.absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    erasures = known_erasures(place) if place.is_file() else []
    part = place.with_name(f".{place.name}-{os.getpid()}.part")
    try:
        _copy_file(backup, part)
        with closing(Database(str(part))) as database:
            database.merge(erasures)
            while database.vacuum(time.time()) not in ("idle", "failed"):
                pass
        kept = _keep_present(place, stamp)
        part.rename(place)
    finally:
        for left in (part, *journals(part)):
            left.unlink(missing_ok=True)
    return kept


def _restore_streams(backup: Path, place: Path, stamp: str) -> list[Path]:
    """Only streams that the backup has, since the folder's lock is held."""
    kept = []
    remembered = place / "erasures.json"
    for path in _folders(backup):
        new = place / f".{path.name}-{os.urandom(8).hex()}"
        shutil.copytree(path, new, copy_function=_copied)
        merge_erasures(backup / remembered.name, remembered, new)
        kept += _keep_present(place / path.name, stamp)
        new.rename(place / path.name)
    sync_folder(place)
    return kept


def _replace(backup: Path, place: Path, stamp: str) -> list[Path]:
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}-{os.getpid()}.part")
    try:
        shutil.copytree(backup, part, copy_function=_copied)
        kept = _keep_present(place, stamp)
        part.rename(place)
        sync_folder(place.absolute().parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return kept


def _keep_present(path: Path, stamp: str) -> list[Path]:
    """Rename it to NAME.replaced-TIME."""
    if not path.exists():
        return []
    kept = path.with_name(f"{path.name}.replaced-{stamp}")
    path.rename(kept)
    return [kept]


@contextmanager
def _stopped(places: Places) -> Iterator[None]:
    """Hold the streams' folder, and make sure that no process has the decision log open. Raises ConfigError."""
    lock = lock_folder(places.streams, 0.0)
    try:
        if places.store.is_file():
            _close_wal(places.store)
        yield
    finally:
        os.close(lock)


def _close_wal(path: Path) -> None:
    """Move what the -wal file holds to the database, which only the last process that has it open can do."""
    try:
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as e:
        raise ConfigError(f"{path}: is in use ({e}): stop the endpoint first") from e
    except sqlite3.DatabaseError as e:  # damaged, which is why it is replaced
        for journal in journals(path):
            with suppress(FileNotFoundError):
                journal.unlink()
        del e


def _manifest(folder: Path) -> dict[str, list[Any]]:
    path = folder / _MANIFEST
    with reading(path, "give the folder of a backup", ValueError, KeyError, TypeError):
        values = orjson.loads(path.read_bytes())
        if values["format"] != FORMAT:
            raise ConfigError(
                f"{path}: has format {values['format']}, and this version reads {FORMAT}: restore it with the version "
                f"that wrote it, jethro {values['jethro']}"
            )
        files: dict[str, list[Any]] = values["files"]
        for name in files:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(f"{path}: names a file outside the backup, {name!r}; take another backup")
        return files


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(p for p in folder.iterdir() if p.is_dir() and any(p.glob("checkpoint-*")) and _plain(p.name))


def _plain(name: str) -> bool:
    return not name.startswith(".") and ".replaced-" not in name


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_file(source: Path, copy: Path) -> None:
    _copied(str(source), str(copy))


def _copied(source: str, copy: str) -> str:
    """Copy a file and bring it to the disk."""
    Path(copy).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, copy)
    with open(copy, "rb") as written:
        os.fsync(written.fileno())
    return copy


def _fingerprint(path: Path) -> list[Any]:
    digest, size = hashlib.blake2b(digest_size=16), 0
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return [size, digest.hexdigest()]
