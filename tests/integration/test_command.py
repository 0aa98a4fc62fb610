"""The first thing that a new user does: `jethro serve`, the README's curl, `jethro chat`, Ctrl-C."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.cli.model_doubles import ModelDoubles, answering, config, write_config
from tests.integration.ports import listed, listening

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
JETHRO = Path(sys.executable).with_name("jethro")
START_LIMIT_S = 180


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Served:
    """A running `jethro serve` with what it said on standard error so far."""

    def __init__(self, port: int, store: Path, source: str = "lab", *options: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        arguments = ["serve", source, "--port", str(port), "--set", f"store.path={store}", *options]
        self.process = subprocess.Popen([JETHRO, *arguments], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self.said: list[str] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)

    def wait_ready(self) -> None:
        self._reader.join(0)
        for _ in range(START_LIMIT_S * 5):
            if any("jethro is ready" in line for line in self.said):
                return
            if self.process.poll() is not None:
                break
            self._reader.join(0.2)
        raise AssertionError("not ready: " + "".join(self.said))

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self._reader.join(10)
            if self.process.stderr:
                self.process.stderr.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(free_port(), tmp_path_factory.mktemp("store") / "jethro.sqlite3")
    try:
        served.wait_ready()
        yield served
    finally:
        served.stop()


def jethro(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([JETHRO, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_readmes_curl_is_answered_rightly_and_explained(served: Served) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"^curl .*?(?=^```)", text, re.DOTALL | re.MULTILINE)
    assert found
    command = found[0].replace("http://127.0.0.1:8000", served.url)
    reply = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout
    head, _, body = reply.replace("\r", "").partition("\n\n")
    assert head.splitlines()[0] == "HTTP/1.1 200 OK"
    names = {line.split(":")[0].lower() for line in head.splitlines()}
    for name in ("strategy", "pool", "model", "score", "threshold", "cost-usd", "decision-id"):
        assert f"x-jethro-{name}" in names
    assert '"content":"42"' in body


def test_every_header_that_the_readme_shows_is_sent(served: Served) -> None:
    shown = re.findall(r"^(x-jethro-[a-z-]+): ", (ROOT / "README.md").read_text("utf-8"), re.M)
    body = {"model": "jethro", "messages": [{"role": "user", "content": "reverse stone"}], "temperature": 0}
    sent = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60).headers
    assert len(shown) >= 6
    assert set(shown) <= set(sent)


def test_chat_and_route_tell_who_answers_and_why(served: Served) -> None:
    answer = jethro("chat", "what is 40 + 2?", "--url", served.url)
    assert (answer.returncode, answer.stdout) == (0, "42\n")
    assert re.fullmatch(r"\[(small|large) jlab-\w+ · win rate [\d.]+ (<|>=) threshold .*\]\n", answer.stderr)
    decision = jethro("route", "what is 40 + 2?", "--url", served.url)
    assert decision.returncode == 0
    assert decision.stdout.startswith("answers")


def test_the_front_pages_hard_query_goes_to_the_large_model_and_is_answered_rightly(served: Served) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (query, right) = re.findall(r"`(sort [\d ]+)` is too hard.*?answers `([\d ]+)`", text, re.DOTALL)[0]
    assert right.split() == sorted(query.split()[1:], key=int)
    answer = jethro("chat", query, "--url", served.url)
    assert answer.stdout == f"{right}\n"
    assert answer.stderr.startswith("[large jlab-large")


def test_an_endpoint_and_a_local_decision_agree(served: Served) -> None:
    for question in ("what is 40 + 2?", "sort 52 17 88 6 34", "reverse stone"):
        here = jethro("route", "--local", question).stdout
        assert here == jethro("route", question, "--url", served.url).stdout


def test_the_security_page_lists_every_port(served: Served) -> None:
    """Each process has as many as it has rows, one of the dashboard agent's aside, and all are on localhost."""
    rows = Counter({name: sum(n for (row, _), n in listed().items() if row == name) for name, _ in listed()})
    found = listening(served.process.pid)
    assert {name for ports in found.values() for name, _ in ports} >= {"HAProxy", "Gateway", "Learner", "gcs", "proxy"}
    for ports in found.values():
        assert {address for _, address in ports} == {"127.0.0.1"}
        (name,) = {name for name, _ in ports}
        assert rows[name] - (name == "dashboard agent") <= ports.total() <= rows[name], name


def test_ctrl_c_stops_it_in_order(served: Served) -> None:
    """Last in this file: it ends the endpoint that the others ask."""
    assert served.stop() == 0
    assert "Traceback" not in "".join(served.said)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/health/live")


def test_what_is_missing_stops_the_start_in_seconds_and_is_the_last_line(tmp_path: Path) -> None:
    tree = config(ModelDoubles(url="http://127.0.0.1:9"), tmp_path / "routers", cascade={"chain": "./chain"})
    file = write_config(tmp_path / "my.yaml", tree)
    begun = time.monotonic()
    done = jethro("serve", file, "--port", str(free_port()))
    assert time.monotonic() - begun < 30, "Ray alone takes longer on a busy machine"
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {file}: cascade.chain: chain/chain.json: no such file; ")


def test_a_pool_that_is_down_and_a_router_of_other_models_are_said_at_the_start_and_in_answers(tmp_path: Path) -> None:
    with answering(ModelDoubles()) as doubles:
        tree = config(doubles, tmp_path / "routers", routing={"router": "complexity"})
        tree["pools"]["large"]["engine"]["urls"] = [f"http://127.0.0.1:{free_port()}/v1"]
        served = Served(free_port(), tmp_path / "log.sqlite3", write_config(tmp_path / "my.yaml", tree))
        try:
            served.wait_ready()
            served._reader.join(1.0)
            said = "".join(served.said)
            assert f"jethro is ready, degraded: {served.url}/v1" in said
            assert (
                f"pool large (double-large) is down at {tree['pools']['large']['engine']['urls'][0]}: cannot be" in said
            )
            assert (
                "warning: router complexity was trained on the answers of jlab-small and jlab-large, but serves" in said
            )
            state = httpx.get(f"{served.url}/health/ready", timeout=10)
            assert (state.status_code, state.json()["degraded"]) == (200, True)
            assert state.json()["pools"]["large"]["why"] == "cannot be reached"
            body = {"model": "jethro", "messages": [{"role": "user", "content": "What is 40 + 2?"}]}
            answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
            assert answer.status_code == 200 and answer.headers["x-jethro-model"] == "double-small"
            assert "was not trained on these models" in answer.headers["x-jethro-warning"]
        finally:
            assert served.stop() == 0
