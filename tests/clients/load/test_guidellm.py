"""guidellm: a short load over chat and over completions."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_load(url: str, key: str, tmp_path: Path, route: str) -> None:
    target = url.removesuffix("/v1")
    command = [str(Path(sys.executable).parent / "guidellm"), "run", "--disable-progress"]
    backend = f"kind=openai_http,target={target},model=jlab-large,api_key={key},request_format={route}"
    tokenizer = os.environ["JETHRO_CLIENTS_TOKENIZER"]
    synthetic = "kind=synthetic_text,prompt_tokens=64,output_tokens=16"
    command += ["--backend", backend, "--profile", "kind=concurrent,streams=2"]
    command += ["--constraint", "kind=max_requests,count=12", "--data", synthetic]
    command += ["--tokenizer", f"kind=huggingface_auto,model={tokenizer}"]
    command += ["--output", f"kind=json,path={tmp_path / 'report.json'}"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=300)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    report: Any = json.loads((tmp_path / "report.json").read_text())
    requests = report["benchmarks"][0]["metrics"]["request_totals"]
    assert requests["successful"] == 12 and not requests["errored"], requests
