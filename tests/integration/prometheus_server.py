"""A real Prometheus over the running application: it scrapes, and answers queries. And what it cannot have here.

The operator of KubeRay runs in Kubernetes alone. A stand-in exports its two metrics as its documentation names them, so
that the queries on them are at least valid and name labels that there are. vLLM's metrics are not there either: panels
show them in place of the transformers engine's, by one query over both.
"""

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

BINARY = shutil.which("prometheus")
OPERATOR_TEXT = b"""\
kuberay_service_condition_ready{name="jethro",namespace="default",condition="true"} 1
kuberay_service_condition_upgrade_in_progress{name="jethro",namespace="default",condition="true"} 0
"""


class Prometheus:
    """One that runs. Every query is of now."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result, as a list of series with their values."""
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": expression}, timeout=20)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def scrapes(self, job: str) -> float:
        """Successful scrapes of a job so far."""
        found = self.query(f'sum(sum_over_time(up{{job="{job}"}}[1h]))')
        return float(found[0]["value"][1]) if found else 0.0

    def until_scraped(self, job: str, more: int = 2, within_s: float = 60.0) -> None:
        """Wait for further scrapes of a job."""
        goal, end = self.scrapes(job) + more, time.monotonic() + within_s
        while self.scrapes(job) < goal:
            assert time.monotonic() < end, f"{job} is not scraped: {self.query('up')}"
            time.sleep(0.2)


@contextlib.contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """One that scrapes these targets (host:port by job), with the alert rules of the package loaded."""
    assert BINARY is not None
    rules = Path(__file__).parents[2] / "serve_app" / "k8s" / "kustomize" / "base" / "rules.yaml"
    folder.mkdir()
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": yaml.safe_load(rules.read_text())["spec"]["groups"]}))
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [target], "labels": {"ray_io_cluster": "here"}}]}
        for job, target in targets.items()
    ]
    every = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
    tree = {"global": every, "rule_files": ["rules.yml"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(tree))
    address = f"127.0.0.1:{_port()}"
    command = [BINARY, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            _until_ready(f"http://{address}", process, folder / "log")
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()


def _until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/-/ready", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"Prometheus is not ready:\n{log.read_text()}")


@contextlib.contextmanager
def operator() -> Iterator[str]:
    """Host and port of the stand-in for KubeRay's operator."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(OPERATOR_TEXT)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ray_export(serving_port: int, within_s: float = 60.0) -> str:
    """Host and port where the Ray under an endpoint exports metrics: the port of its agent that answers with them."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        for port in _ports_under(serving_port):
            with contextlib.suppress(httpx.HTTPError):
                if "ray_node_mem_total" in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=2).text:
                    return f"127.0.0.1:{port}"
        time.sleep(0.5)
    raise AssertionError("no process of Ray exports metrics")


def _ports_under(serving_port: int) -> Iterator[int]:
    """Ports of the agents among the processes that descend from this one and serve this port's endpoint."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "agent" in " ".join(process.cmdline()).lower():
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port != serving_port:
                        yield connection.laddr.port


def _port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
