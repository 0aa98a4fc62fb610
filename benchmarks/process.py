"""Servers as processes of their own: started, awaited, measured, and stopped whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Self

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "benchmarks"


def stop_in_order_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does, so that servers which it started are stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def free_port() -> int:
    """A free port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """A command that serves; `with Server(...) as s:` waits until `ready_url` answers 200. Its output is in `log`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready_url: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 180.0,
        root: Path = ROOT,
    ) -> None:
        """`root`: the folder of the code that the command runs."""
        BUILD.mkdir(parents=True, exist_ok=True)
        self.name, self.log = name, BUILD / f"{name}.log"
        self._command, self.ready_url, self._timeout_s = list(command), ready_url, timeout_s
        self._root = root
        self._env = {**os.environ, "PYTHONPATH": str(root), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the command itself."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._process.pid

    def start(self) -> None:
        """Start without waiting."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._root, env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self) -> None:
        """Raises RuntimeError with the end of the log if it does not answer in time."""
        deadline = monotonic() + self._timeout_s
        while monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at once; the end of {self.log}:\n{self._tail()}")
            if answers(self.ready_url):
                return
            sleep(0.2)
        raise RuntimeError(f"{self.name} not ready in {self._timeout_s:.0f} s; the end of {self.log}:\n{self._tail()}")

    def stop(self, timeout_s: float = 40.0) -> None:
        """SIGTERM to the command, then SIGKILL to its whole session; idempotent."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop(5)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-3000:]


def answers(url: str) -> bool:
    """Whether a GET gives 200 within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False
