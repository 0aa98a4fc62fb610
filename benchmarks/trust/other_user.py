"""`python -m benchmarks.trust.other_user`: what user 65534 of the same machine can read, command and ask. Needs root.

An endpoint with callers' keys, a pool behind an upstream's key, a metrics key where there is one, and
`store.keep_prompts` answers a few requests; then everything that it has is tried: files, sockets, processes, ports.
"""

import argparse
import contextlib
import http.server
import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.process import BUILD, ROOT, stop_in_order_on_sigterm
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from benchmarks.trust.endpoint import Endpoint
from benchmarks.trust.outsider import Access, Targets, entries, try_as_other_user
from benchmarks.trust.results import FOLDER, write

OPEN = ("GET /-/routes", "GET /-/healthz")
LISTED: Mapping[str, tuple[str, ...]] = {
    "HAProxy": (*OPEN, "GET /health", "GET /health/ready"),
    "Gateway": OPEN,
    "proxy": OPEN,
    "small replica": ("GET /health",),
    "large replica": ("GET /health",),
    "dashboard": ("GET ",),  # Ray's figures on itself, at any path
    "monitor": ("GET ",),
}
"""What docs/security.md lists as answered to anybody on the machine, by role: beginnings of the request."""
OWN_FILES = ("config.yaml", "serve.log")
"""Written by this script, as an operator would."""


class _Upstream(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible upstream that says the same to everybody."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "forty-two"}
        body = json.dumps({
            "id": "x", "object": "chat.completion", "created": 1, "model": "far",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(404)  # it answers, as readiness requires

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The base URL of one."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()


def config(url: str, metrics_key: bool) -> dict[str, Any]:
    """The embedded models, and one upstream."""
    local = {
        name: {"model": f"jlab-{name}", "engine": {"kind": "transformers", "path": f"lab:{name}"}}
        for name in ("small", "large")
    }
    far = {"model": "far", "engine": {"kind": "openai", "urls": [url], "api_key_env": "TRUST_UPSTREAM_KEY"}}
    server: dict[str, Any] = {"keys": [{"name": "acme", "env": "TRUST_CALLER_KEY"}]}
    return {
        "pools": local | {"far": far},
        "streams": {"enabled": True},
        "store": {"keep_prompts": True},
        "server": server | ({"metrics_key_env": "TRUST_METRICS_KEY"} if metrics_key else {}),
    }


def use(url: str, key: str, prompt: str) -> None:
    """Requests whose prompts are kept, and a stream. Raises httpx.HTTPStatusError."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        stream = {"labels": ["yes", "no"], "budget": {"share": 0.5}}
        client.put("/v1/streams/of-acme", json=stream)  # the two commits differ in what they accept
        for model in ("jethro", "jlab-small", "far", "jethro", "far"):
            body = {"model": model, "messages": [{"role": "user", "content": f"{prompt} what is 12 + 30?"}]}
            client.post("/v1/chat/completions", json=body).raise_for_status()


def everything_of(endpoint: Endpoint, home: Path, known: Mapping[str, str]) -> Targets:
    """All that the endpoint has, as root sees it."""
    processes = {p.pid: role for role, p in endpoint.processes()} | {endpoint.process.pid: "jethro serve"}
    named = "\0".join(_named(pid) for pid in processes)
    folders = {"/dev/shm", str(endpoint.folder), str(home), *_temporary(named)}
    listeners = [(processes[pid], int(line.split()[3].rpartition(":")[2])) for pid, line in _listening("t", processes)]
    files = sorted(path for folder in folders - {"/dev/shm"} for path in entries([folder], stat.S_ISREG))
    mark = Path(tempfile.mkdtemp(prefix="trust-"))
    mark.chmod(0o755)
    sockets = [line.split()[4] for _, line in _listening("x", processes)]
    return Targets(
        tuple(sorted(folders)), tuple(files), tuple(sockets), tuple(sorted(set(listeners))), processes,
        {**known, **_tokens(home, named)}, str(mark / "ran"),
    )  # fmt: skip


def _named(pid: int) -> str:
    """Command line, environment and open files of a process."""
    with contextlib.suppress(psutil.Error, OSError):
        parts = [*(Path(f"/proc/{pid}/{name}").read_text(errors="replace") for name in ("cmdline", "environ"))]
        return "\0".join([*parts, *(file.path for file in psutil.Process(pid).open_files()), ""]).replace("=/", "\0/")
    return ""


def _temporary(named: str) -> Iterator[str]:
    """Folders in the temporary folder that the processes name; of one that endpoints share, its part."""
    temporary = Path(tempfile.gettempdir())
    for word in {word for word in named.split("\0") if word.startswith(f"{temporary}/")}:
        parts = Path(word).relative_to(temporary).parts
        folder = temporary.joinpath(*parts[: 1 if parts[0].startswith("jethro-") else 2])
        if folder.is_dir() and (len(parts) > 1 or parts[0].startswith("jethro-")):
            yield str(folder)


def _listening(family: str, processes: Iterable[int]) -> Iterator[tuple[int, str]]:
    lines = subprocess.run(["ss", f"-H{family}lnp"], check=True, capture_output=True, text=True).stdout.splitlines()
    for line in lines:
        yield from ((pid, line) for pid in processes if f"pid={pid}," in line)


def _tokens(home: Path, named: str) -> dict[str, str]:
    """Ray's token and the front's, where the endpoint has them."""
    found = {}
    words = {word for word in named.split("\0") if word.startswith("/")}
    for word in (*words, str(home / ".ray" / "auth_token")):
        path = Path(word)
        with contextlib.suppress(OSError):
            if path.name in ("ray-token", "auth_token"):
                found["Ray's token"] = path.read_text().strip()
            elif (path / "front.json").is_file():
                found["front's token"] = json.loads((path / "front.json").read_text())["token"]
    return found


def fault(access: Access) -> bool:
    """Whether it is more than docs/security.md lists."""
    if access.secrets or access.what != "http":
        return bool(access.secrets) or not (access.what == "file" and Path(access.where).name in OWN_FILES)
    role, _, request = access.where.partition(": ")
    return not request.startswith(LISTED.get(role, ("POST nothing",)))


def shown(access: Access, endpoint: Endpoint, home: Path) -> dict[str, Any]:
    """JSON-ready, without this machine's folders."""
    where = access.where.replace(str(home), "HOME").replace(str(endpoint.folder), "WORKING_DIRECTORY")
    return asdict(replace(access, where=where))


def run(checkout: Path) -> dict[str, Any]:
    """Start, use, try everything."""
    known = {name: secrets.token_hex(12) for name in ("caller key", "upstream key", "metrics key", "prompt")}
    home = BUILD / "trust" / "other_user-home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(0o755, parents=True)
    env = {"TRUST_CALLER_KEY": known["caller key"], "TRUST_UPSTREAM_KEY": known["upstream key"],
           "TRUST_METRICS_KEY": known["metrics key"], "HOME": str(home)}  # fmt: skip
    has_metrics_key = "metrics_key_env" in (checkout / "docs" / "reference-config.md").read_text()
    with upstream() as url, Endpoint("other_user", config(url, has_metrics_key), checkout=checkout, env=env) as e:
        use(e.url, known["caller key"], known["prompt"])
        targets = everything_of(e, home, known)
        try:
            tried, found = try_as_other_user(targets)
        finally:
            shutil.rmtree(Path(targets.mark).parent)
        return {
            "environment": environment(),
            "checkout": subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=checkout, check=True,
                                       capture_output=True, text=True).stdout.strip(),
            "secrets": sorted(targets.secrets), "processes": dict(sorted(Counter(targets.pids.values()).items())),
            "tried": tried, "listed": [shown(a, e, home) for a in found if not fault(a)],
            "faults": [shown(a, e, home) for a in found if fault(a)],
        }  # fmt: skip


def table(found: Mapping[str, Any], most: int = 40) -> str:
    """The result as Markdown."""
    kinds = Counter(a["what"] for a in found["faults"])
    listed = Counter(a["what"] for a in found["listed"])
    leaks = Counter(name for a in found["faults"] for name in a["secrets"])
    rows = [(kind, n, listed[kind], kinds[kind] + (kinds["folder"] if kind == "file" else 0))
            for kind, n in found["tried"].items()]  # fmt: skip
    faults = [(a["what"], a["where"], a["answer"], ", ".join(a["secrets"])) for a in found["faults"]]
    faults.sort(key=lambda row: (not row[3], row[0] == "file", row[0]))
    text = f"Commit {found['checkout']}, user 65534. Secrets: {', '.join(found['secrets'])}.\n\n"
    text += markdown(("", "tried", "possible, and listed in docs/security.md", "possible, not listed"), rows)
    text += "\n" + markdown(("secret", "places it was read from"), [(s, leaks[s]) for s in found["secrets"]])
    if faults:
        text += f"\nNot listed ({len(faults)}):\n\n" + markdown(("", "where", "answer", "secrets"), faults[:most])
    return f"{text}\n{one_line(found['environment'])}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write JSON and table; 1 if anything is possible that the security page does not list."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.trust.other_user", description=__doc__.splitlines()[0])
    p.add_argument("--checkout", type=Path, default=ROOT, help="of the project to serve from")
    p.add_argument("--out", type=Path, default=FOLDER)
    args = p.parse_args(argv)
    if os.geteuid() != 0:
        p.error("start it as root: only root can become another user")
    stop_in_order_on_sigterm()
    found = run(args.checkout.resolve())
    write(args.out, "trust_other_user", found, table(found))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
