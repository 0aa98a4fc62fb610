"""The peer: LiteLLM's proxy in a virtual environment of its own, in front of the same fake upstream."""

import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.process import BUILD, ROOT, Server

VERSION = "1.106.2"
"""The newest whose proxy extra installs and starts (1.109.1's does not)."""
VENV = ROOT / "build" / "litellm-venv"
_ENV = {
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "PYTHONPATH": "",
}


def ensure(given: str | None) -> Path:
    """The `litellm` command: the one given, or that of build/litellm-venv, which is made if it is missing."""
    command = Path(given) if given else VENV / "bin" / "litellm"
    if given and not command.is_file():
        raise FileNotFoundError(f"--litellm {given}: no such file; give the path of the litellm command")
    if not command.is_file():
        print(f"Installing litellm[proxy]=={VERSION} into {VENV} (once, minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "-q", f"litellm[proxy]=={VERSION}"], check=True)
    return command


def proxy(command: Path, port: int, upstream_port: int, workers: int) -> Server:
    """The proxy, not started yet: no database, no callbacks, no retries; only what passing a request on needs."""
    upstream = {"model": "openai/fake", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "fake", "litellm_params": upstream}],
        "litellm_settings": {"num_retries": 0, "telemetry": False},
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / "litellm.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = ["--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers)]
    if workers > 1:
        # LiteLLM takes longer to import than the 5 s after which uvicorn would kill a silent worker, for ever
        arguments += ["--timeout_worker_healthcheck", "120"]
    return Server(
        f"litellm-{workers}", [str(command), *arguments], f"http://127.0.0.1:{port}/health/liveliness", _ENV, 240
    )
