"""One endpoint as an operator starts it, `jethro serve FILE`, and its processes by what they are."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

import psutil
import yaml

from benchmarks.process import BUILD, ROOT, answers, free_port

_STEM = "front's stem"
ROLES = {
    "Gateway": ("ray::ServeReplica", ":Gateway"),
    "small replica": ("ray::ServeReplica", ":SmallPool"),
    "large replica": ("ray::ServeReplica", ":LargePool"),
    "Learner": ("ray::ServeReplica", ":Learner"),
    "HAProxy": ("haproxy", " -f "),
    _STEM: ("serve_app.front.supervisor",),
    "HAProxy manager": ("ray::HAProxyManager",),
    "proxy": ("ray::ProxyActor",),
    "controller": ("ray::ServeController",),
    "raylet": ("/raylet/raylet",),
    "gcs": ("/gcs/gcs_server",),
    "dashboard": ("dashboard/dashboard.py",),
    "dashboard agent": ("ray::DashboardAgent",),
    "runtime environment agent": ("ray::RuntimeEnvAgent",),
    "log monitor": ("log_monitor.py",),
    "monitor": ("autoscaler/_private/monitor.py",),
}
"""Parts of the command line, all of which a process of that role has; the first role that fits counts."""


class Endpoint:
    """`with Endpoint(name, tree) as e:` serves the config tree until the end of the block.

    `checkout`: another checkout of the project to serve from, such as one of the commit before. `env`: variables more.
    """

    def __init__(
        self, name: str, tree: dict[str, Any], *, checkout: Path = ROOT, env: dict[str, str] | None = None
    ) -> None:
        self.name, self.checkout = name, checkout
        self.folder = BUILD / "trust" / name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.folder / "serve.log"
        self._tree = tree | {"server": tree.get("server", {}) | {"port": self.port}}
        self._tree["store"] = tree.get("store", {}) | {"path": str(self.folder / "jethro.sqlite3")}
        self._env = {**os.environ, "PYTHONPATH": str(checkout), **(env or {})}
        self._seen: dict[int, psutil.Process] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def start(self) -> None:
        """Start without waiting."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(self._tree))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serve_app.cli.main", "serve", str(file)],
                cwd=self.folder, env=self._env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """Of `jethro serve` itself."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._process

    def wait_ready(self, timeout_s: float = 240.0) -> None:
        """Raises RuntimeError with the end of the log if it does not get ready in time."""
        until = monotonic() + timeout_s
        while not answers(f"{self.url}/health/ready"):
            if self.process.poll() is not None or monotonic() > until:
                raise RuntimeError(f"{self.name} is not ready; the end of {self.log}:\n{self.tail()}")
            sleep(0.3)

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Role and process of each that runs now, oldest first; those whose parent has died included."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._seen.setdefault(process.pid, process)
        for process in sorted(self._seen.values(), key=lambda p: p.create_time()):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    yield role(process), process

    def of(self, name: str) -> list[psutil.Process]:
        """Processes of one role, oldest first."""
        return [process for found, process in self.processes() if found == name]

    def end(self, timeout_s: float = 60.0) -> int | None:
        """SIGTERM, then SIGKILL to everything; the exit status, None if it had to be killed."""
        status = None
        everything = [process for _, process in self.processes()]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(timeout_s)
        for process in [*everything, psutil.Process(self.process.pid)] if status is None else everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        return status

    def tail(self, characters: int = 3000) -> str:
        """The end of what it wrote."""
        return self.log.read_text("utf-8", "replace")[-characters:]


def role(process: psutil.Process) -> str:
    """What the process is, by its command line; its name if that says nothing."""
    line = " ".join(process.cmdline())
    found = next((name for name, parts in ROLES.items() if all(p in line for p in parts)), process.name())
    if found == _STEM and (parent := process.parent()) is not None and ROLES[_STEM][0] in " ".join(parent.cmdline()):
        return "front"
    return found
