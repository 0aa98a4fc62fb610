"""`vllm bench serve`, the real command line, where the CPU build of vLLM is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("backend", ["openai-chat", "openai"])
def test_load(url: str, key: str, tmp_path: Path, backend: str) -> None:
    route = "/v1/chat/completions" if backend == "openai-chat" else "/v1/completions"
    command = [str(Path(sys.executable).parent / "vllm"), "bench", "serve", "--backend", backend, "--endpoint", route]
    command += ["--base-url", url.removesuffix("/v1"), "--model", "jlab-large"]
    command += ["--tokenizer", os.environ["JETHRO_CLIENTS_TOKENIZER"], "--dataset-name", "random"]
    command += ["--random-input-len", "64", "--random-output-len", "16", "--num-prompts", "8", "--max-concurrency", "2"]
    command += ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"]
    environment = {**os.environ, "OPENAI_API_KEY": key}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["completed"] == 8 and not result["failed"], result
