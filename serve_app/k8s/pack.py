"""The archive of a config's own routers, chains and cascade routers: the same content gives the same bytes."""

import gzip
import tarfile
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path

from serve_app.config import Config
from serve_app.errors import ConfigError, writing
from serve_app.files import replacing
from serve_app.k8s.delivery import REGISTRIES, Named, own_artefacts
from serve_app.k8s.prepare import MAX_BYTES
from serve_app.learning.saved_folder import check_folder


def pack(config: Config, out: Path) -> tuple[str, list[Named]]:
    """Write the archive; its sha256 and the folders in it.

    Raises ConfigError if the config names none, or a folder that is missing or holds what no router of ours has.
    """
    found = own_artefacts(config)
    if not found:
        raise ConfigError("nothing to pack: the config names no router or chain of your own, and its registry has none")
    for named in found:
        if not Path(named.path).is_dir():
            raise ConfigError(f"{named.key}: {named.path}: no such folder; fit or register it first")
        for folder in _artefacts(named):
            check_folder(folder)
    size = sum(file.stat().st_size for named in found for file in _files(named))
    if size > MAX_BYTES:
        raise ConfigError(f"{size} bytes to pack, and pods take {MAX_BYTES}: put large routers on a claim of their own")
    with writing(out, "give another file with --out"), replacing(out) as part:
        # the time in the header would change the digest
        with (
            part.open("wb") as file,
            gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for named in found:
                _add(archive, named)
        with part.open("rb") as whole:
            digest = file_digest(whole, "sha256").hexdigest()
    return digest, found


def _artefacts(named: Named) -> Iterator[Path]:
    """The folders to check: a registry holds one for each version."""
    folder = Path(named.path)
    yield from folder.glob("*/*/") if named.key in REGISTRIES else [folder]


def _add(archive: tarfile.TarFile, named: Named) -> None:
    for file in _files(named):
        info = tarfile.TarInfo(f"{named.packed}/{file.relative_to(named.path).as_posix()}")
        info.size, info.mode = file.stat().st_size, 0o644
        with file.open("rb") as content:
            archive.addfile(info, content)


def _files(named: Named) -> list[Path]:
    top = Path(named.path)
    return sorted(f for f in top.rglob("*") if f.is_file() and not _draft(f.relative_to(top)))


def _draft(file: Path) -> bool:
    """Whether it is of a version that is being written."""
    return any(part.startswith(".") for part in file.parts)
