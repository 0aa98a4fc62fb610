"""Dockerfiles and .dockerignore, read as far as ours go."""

import re
import shlex
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")


@dataclass(frozen=True)
class Step:
    """An instruction with its words."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def steps(name: str) -> list[Step]:
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy" / name).read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [Step(*line.split(maxsplit=1)) for line in lines]


def copied(name: str) -> list[tuple[list[str], str]]:
    """Sources and destination of each COPY out of the context."""
    found = [s.words for s in steps(name) if s.name == "COPY"]
    return [(w[:-1], w[-1]) for w in found if not w[0].startswith("--from")]


def context() -> list[Path]:
    """Files that .dockerignore lets into the build, relative to the root; the last pattern that matches decides."""
    patterns = [p for p in (ROOT / ".dockerignore").read_text().splitlines() if p and not p.startswith("#")]
    tops = {p.removeprefix("!").split("/")[0] for p in patterns if p.startswith("!")}
    files = [f.relative_to(ROOT) for top in tops for f in [ROOT / top, *(ROOT / top).rglob("*")] if f.is_file()]
    return sorted(f for f in files if not _ignored(f, patterns))


def replay(name: str, folder: Path) -> None:
    """The COPY steps of the first stage, out of the context alone, into a clean folder."""
    allowed = context()
    for sources, destination in copied(name):
        for source in sources:
            taken = [f for f in allowed if f == Path(source) or Path(source) in f.parents]
            assert taken, f"{name}: COPY {source}: .dockerignore lets nothing of it in"
            for file in taken:
                inside = file.relative_to(source) if (ROOT / source).is_dir() else Path(file.name)
                target = folder / destination / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, target)


def _ignored(file: Path, patterns: list[str]) -> bool:
    ignored = False
    for pattern in patterns:
        plain = pattern.removeprefix("!")
        bare = plain.removeprefix("**/")
        names = [str(p) for p in [file, *file.parents] if str(p) != "."]
        hit = any(fnmatch(n, plain) or (plain != bare and fnmatch(Path(n).name, bare)) for n in names)
        ignored = not pattern.startswith("!") if hit else ignored
    return ignored
