"""wrk, a load generator in C: a Python client would measure itself first."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import orjson

_SCRIPT = Path(__file__).with_name("post.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. `received` is bytes of answers, those of answers not yet whole included."""

    requests: int
    received: int
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    errors: int
    """Failed connections, reads, writes, timeouts and statuses of 400 and above together."""

    @property
    def per_second(self) -> float:
        """Whole answers a second."""
        return self.requests / self.seconds


def require_wrk() -> None:
    """Raises RuntimeError with what to do if wrk is missing."""
    if shutil.which("wrk") is None:
        raise RuntimeError("this benchmark needs wrk: apt-get install wrk (Debian, Ubuntu) or brew install wrk")


def wrk(
    url: str, concurrency: int, seconds: float, body: bytes = b"", *, method: str = "POST", key: str = "none"
) -> Load:
    """Keep `concurrency` requests open for so long, from one thread; `key` is the bearer key.

    Raises RuntimeError if wrk itself fails.
    """
    # whole seconds only: wrk reads no fractions
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(_SCRIPT)]
    done = subprocess.run(
        [*command, url, "--", method, key, body.decode()], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("JSON ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk failed ({done.returncode}): {done.stdout[-500:]}{done.stderr[-500:]}")
    seen = orjson.loads(lines[0][5:].replace("-nan", "0").replace("nan", "0"))
    return Load(
        requests=seen["requests"],
        received=seen["bytes"],
        seconds=seen["duration_us"] / 1e6,
        p50_ms=seen["p50_us"] / 1e3,
        p90_ms=seen["p90_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        errors=sum(seen[k] for k in ("connect", "read", "write", "status", "timeout")),
    )
