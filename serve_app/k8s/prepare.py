"""What a pod's init container runs before Ray starts: unpack your routers and chains, and look for what is missing.

`python -m serve_app.k8s.prepare --extras encoders,vllm --url URL --sha256 DIGEST --into FOLDER --path FOLDER`

What is missing ends in one sentence and status 1, at once and by name, instead of replicas that fail one after another.
"""

import argparse
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import IO, Final

from serve_app.config.load import optional_secret
from serve_app.errors import ConfigError
from serve_app.k8s.extras import MODULES, missing_modules

TOKEN: Final = "JETHRO_ARTEFACTS_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable with the bearer token of the archive's server, if it requires one."""
MAX_BYTES: Final = 2 * 2**30
"""Of the archive, and of what it unpacks to. Routers have megabytes; weights do not belong here."""
_TRIES = 5
_TIMEOUT_S = 30.0
_BLOCK = 2**20


def main(arguments: Sequence[str] | None = None, pause: Callable[[float], None] = time.sleep) -> int:
    """The exit status; why it is 1 goes to stderr. `pause` takes seconds."""
    given = _parser().parse_args(arguments)
    try:
        _check_extras([extra for extra in given.extras.split(",") if extra])
        if given.url:
            unpack(given.url, given.sha256, Path(given.into), token=optional_secret(TOKEN), pause=pause)
        for path in given.path:
            if not Path(path).exists():
                raise ConfigError(
                    f"{path}: not in this pod; the config names it: put it into the image, the archive or on the claim"
                )
    except ConfigError as e:
        print(f"prepare: {e}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="serve_app.k8s.prepare", description="Prepare a pod.")
    parser.add_argument("--extras", default="", help="Extras that the image must have, comma-separated.")
    parser.add_argument("--url", help="The archive of routers and chains.")
    parser.add_argument("--sha256", default="", help="Of the archive.")
    parser.add_argument("--into", default="", help="The folder to unpack it in.")
    parser.add_argument("--path", action="append", default=[], help="A file or folder that must be there.")
    return parser


def _check_extras(extras: Sequence[str]) -> None:
    for extra in extras:
        if extra not in MODULES:
            raise ConfigError(f"--extras {extra}: no extra of this image; known: {', '.join(MODULES)}")
        if missing := missing_modules(extra):
            raise ConfigError(
                f"the image has no {', '.join(missing)}, which the config needs: build it with the extra {extra}, "
                'for instance --build-arg EXTRAS="..."'
            )


def unpack(url: str, digest: str, folder: Path, *, token: str | None, pause: Callable[[float], None]) -> None:
    """Load the archive, compare its digest, and unpack it; what was in `folder` before goes.

    Raises ConfigError with what to do.
    """
    for entry in folder.iterdir() if folder.is_dir() else []:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        found = _loaded(url, token, file, pause)
        if found != digest:
            raise ConfigError(
                f"{url}: its sha256 is {found} and kubernetes.artefacts.sha256 is {digest}: upload the archive that "
                "was packed, or render with its sha256"
            )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:*") as archive:
                members = archive.getmembers()
                if sum(member.size for member in members) > MAX_BYTES:
                    raise ConfigError(f"{url}: unpacks to more than {MAX_BYTES} bytes: weights do not belong in it")
                # `data` refuses links out of the folder, absolute names and devices
                archive.extractall(folder, members, filter="data")
        except (tarfile.TarError, EOFError, OSError) as e:
            raise ConfigError(f"{url}: cannot be unpacked ({e}): pack it with `jethro k8s pack`") from e


def _loaded(url: str, token: str | None, file: IO[bytes], pause: Callable[[float], None]) -> str:
    """Load into the file, with further tries where the server may come back; the digest."""
    for tries in range(1, _TRIES + 1):
        file.seek(0)
        file.truncate()
        try:
            return _load(url, token, file)
        except urllib.error.HTTPError as e:
            why, last = f"status {e.code}", e.code < 500 and e.code != 429
        except (OSError, HTTPException) as e:  # URLError is an OSError
            why, last = str(e), False
        if last or tries == _TRIES:
            raise ConfigError(f"{url}: cannot be loaded ({why}): see kubernetes.artefacts.url, egress and {TOKEN}")
        pause(2.0**tries)
    raise AssertionError("unreachable")


def _load(url: str, token: str | None, file: IO[bytes]) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url}: give an http or https URL")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    digest, size = sha256(), 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - http or https, see above
        while block := answer.read(_BLOCK):
            size += len(block)
            if size > MAX_BYTES:
                raise ConfigError(f"{url}: larger than {MAX_BYTES} bytes: weights do not belong in it")
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
