"""Three Ray nodes on this machine, without Kubernetes: started from the Serve config and with the environment that are
rendered for it, a node killed and one added under load, Serve's controller killed, and the front drained by the preStop
hook. Nodes are Ray's own cluster utilities, in a folder of the test's own, so that no other Ray on the machine is found
or found by others.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from benchmarks.script import prompt
from serve_app.config import Config, load
from serve_app.config.environment import front_variables
from serve_app.front.settings import PROOF_HEADER
from serve_app.k8s.pods import environment
from serve_app.k8s.render import in_cluster, serve_config
from serve_app.k8s.stopping import hook_folder, lifecycle
from tests.integration.serving import free_port

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180
SECRET = "0123456789abcdef"
REPLICAS = {"small": 2, "large": 2}
HEAD = {"num_cpus": 4, "memory": 2**28}
WORKER = {"num_cpus": 2, "memory": 2**31}
"""The Gateway fits the head alone, which has room for a Learner beside; two replicas of pools fit each worker."""


@dataclass
class Running:
    """The endpoint, the nodes, and the folder by which this cluster's processes are known."""

    url: str
    cluster: Any
    folder: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tempfile.mkdtemp(prefix="jr", dir="/tmp")  # sockets lie below it, and their paths must be short
    with pytest.MonkeyPatch.context() as patch:
        settings = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
        for name, value in (pod_environment(Path(folder)) | settings).items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**HEAD, "include_dashboard": False})
        try:
            for _ in range(2):
                cluster.add_node(wait=False, **WORKER)
            cluster.wait_for_nodes(PATIENCE_S)
            with served(cluster.address, tmp_path_factory.mktemp("cluster")) as url:
                yield Running(url, cluster, folder)
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def pod_environment(folder: Path) -> dict[str, str]:
    """What `jethro k8s render` gives a pod, with the paths of this machine, and values for its Secrets."""
    env = {e["name"]: e.get("value", SECRET) for e in environment(tree(folder / "unused.sqlite3"))}
    for name in ("JETHRO_CONFIG", "HF_HOME"):
        del env[name]
    program = (
        folder / "jethro-front"
    )  # Ray's workers lose PYTHONPATH, by which a checkout is found without installation
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{Path(sys.executable).with_name("jethro-front")}" "$@"\n')
    program.chmod(0o700)
    return env | front_variables(program, folder / "front")


@contextlib.contextmanager
def served(address: str, folder: Path) -> Iterator[str]:
    """`serve run` of a Serve config on the cluster, as an operator does it."""
    config = rendered(folder / "jethro.sqlite3")
    port = free_port()
    # three nodes of one machine share its ports, so only the head has a proxy, and none is on KubeRay's
    config["proxy_location"] = "HeadOnly"
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    file, log = folder / "serve.yaml", folder / "serve.log"
    file.write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("serve")), "run", "--address", address, str(file)]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not ready(url):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.3)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def tree(store: Path) -> Config:
    """A lab whose pools may grow, as it holds inside pods."""
    tree = load("lab").model_dump(mode="json")
    tree["server"]["allow_unauthenticated"] = True
    tree["store"]["path"] = str(store)
    tree["gateway"]["num_cpus"] = 3
    del tree["pools"]["embed"]  # asleep in the lab, and no engine of the benchmarks' kind
    for name, pool in tree["pools"].items():
        # room enough that the load of this test is no reason to grow
        pool["replicas"] = {"min": REPLICAS[name], "max": REPLICAS[name] + 1, "concurrency": 64}
        pool |= {"required": True, "resources": {"num_cpus": 1, "memory_gib": 0.5}}
    return in_cluster(Config.model_validate(tree))


def rendered(store: Path) -> dict[str, Any]:
    """The Serve config that `jethro k8s render` writes of it, with the benchmarks' engine."""
    config = serve_config(tree(store))
    (application,) = config["applications"]
    assert application["autoscaling_policy"]
    application["args"]["engine_factory"] = "benchmarks.fake_engine:build"
    return config


def ready(url: str) -> bool:
    """Whether all replicas are known to the Gateway."""
    try:
        answer = httpx.get(f"{url}/health/ready", timeout=10)
        return answer.status_code == 200 and {n: p["replicas"] for n, p in answer.json()["pools"].items()} == REPLICAS
    except httpx.TransportError:
        return False


@contextlib.asynccontextmanager
async def load_on(url: str) -> AsyncIterator[list[int]]:
    """Sixteen callers, one question after another; the statuses are there when the block has ended."""
    codes: list[int] = []
    over = asyncio.Event()
    body = {"model": "jethro", "max_tokens": 10, "messages": [{"role": "user", "content": prompt(pace_ms=20)}]}
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as client:

        async def caller() -> None:
            while not over.is_set():
                codes.append((await client.post("/v1/chat/completions", json=body)).status_code)

        calling = [asyncio.create_task(caller()) for _ in range(16)]
        try:
            yield codes
        finally:
            over.set()
            await asyncio.gather(*calling)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.3)


def test_gateways_answer_their_own_front_alone_whose_files_are_private(running: Running) -> None:
    around = Path(running.folder) / "front"
    (front,) = around.iterdir()  # of the one node that has a proxy
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (around, front)] == [0o700, 0o700]
    assert stat.S_IMODE((front / "s.sock").stat().st_mode) == 0o600
    (address,) = set(re.findall(r"server \S*Gateway\S* (\S+:\d+) ", (front / "serve.cfg").read_text()))
    for given, status in (({}, 400), ({PROOF_HEADER: "forged"}, 400), ({PROOF_HEADER: SECRET}, 200)):
        assert httpx.get(f"http://{address}/v1/models", headers=given).status_code == status
    assert httpx.get(f"{running.url}/v1/models", headers={PROOF_HEADER: "forged"}).status_code == 200


async def test_a_killed_node_loses_no_request_and_a_new_one_takes_its_replicas(running: Running) -> None:
    victim = next(iter(running.cluster.worker_nodes))
    async with load_on(running.url) as codes:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(running.cluster.remove_node, victim, allow_graceful=False)
        before = len(codes)
        await until(lambda: not ready(running.url))
        running.cluster.add_node(wait=False, **WORKER)
        await until(lambda: ready(running.url))
    assert len(codes) > before > 0 and set(codes) == {200}


def controller(running: Running) -> psutil.Process | None:
    """Serve's controller of this cluster: its working directory or open files lie in the cluster's folder."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::ServeController"):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == running.folder:
                    return process
    return None


async def test_traffic_goes_on_when_serves_controller_is_killed(running: Running) -> None:
    killed = controller(running)
    assert killed is not None
    async with load_on(running.url) as codes:
        await asyncio.sleep(1.0)
        os.kill(killed.pid, signal.SIGKILL)
        before = len(codes)

        def back() -> bool:
            now = controller(running)
            return now is not None and now.pid != killed.pid

        await until(back)
        await asyncio.sleep(2.0)
    assert len(codes) > before > 0 and set(codes) == {200}


async def test_the_hook_before_a_pods_end_finishes_what_is_open_and_accepts_no_more(running: Running) -> None:
    command = lifecycle(tree(Path("unused")))["preStop"]["exec"]["command"]
    folder = str(Path(running.folder) / "front")
    command = [sys.executable, *(folder if word == hook_folder(command) else word for word in command[1:])]
    body = {"model": "jethro", "max_tokens": 100, "messages": [{"role": "user", "content": prompt(pace_ms=100)}]}
    async with httpx.AsyncClient(base_url=running.url, timeout=60, headers={"connection": "close"}) as client:
        async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as stream:
            hook = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
            await asyncio.sleep(1.0)
            assert (await client.get("/health/live")).status_code == 200  # it pauses first
            lines = [line async for line in stream.aiter_lines()]
        assert "data: [DONE]" in lines
        assert await asyncio.wait_for(hook.wait(), 30) == 0
        with pytest.raises(httpx.ConnectError):
            await client.get("/health/live")
