"""The application as a process of its own, started as an operator starts it: `jethro serve FILE`."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

START_S = 240
STOP_S = 90


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(tree: dict[str, Any], folder: Path, engine_factory: str | None = None) -> Iterator[str]:
    """The URL of the running endpoint. It must start in time, and stop by SIGINT with exit status 0."""
    port = tree["server"]["port"] = free_port()
    tree["store"]["path"] = str(folder / "jethro.sqlite3")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "serve_app.cli.main", "serve", str(file)]
    if engine_factory is not None:
        command = [sys.executable, "-m", "benchmarks.application", str(file), engine_factory]
    log = folder / "serve.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _until_ready(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                status = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert status == 0, log.read_text()[-3000:]


def _until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.3)
    raise AssertionError(f"not ready in {START_S} s:\n{log.read_text()[-3000:]}")
