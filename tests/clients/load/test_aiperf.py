"""aiperf: a short load over each kind of endpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("kind", ["chat", "completions", "responses", "embeddings"])
def test_load(url: str, key: str, tmp_path: Path, kind: str) -> None:
    model = "embed" if kind == "embeddings" else "jlab-large"
    command = [str(Path(sys.executable).parent / "aiperf"), "profile", "--ui", "none", "--endpoint-type", kind]
    command += ["--model", model, "--url", url.removesuffix("/v1"), "--api-key", key]
    command += ["--tokenizer", os.environ["JETHRO_CLIENTS_TOKENIZER"], "--isl", "64"]
    command += ["--concurrency", "2", "--request-count", "8", "--artifact-dir", str(tmp_path)]
    if kind != "embeddings":
        command += ["--streaming", "--osl", "16"]
    if kind in ("chat", "completions"):  # as documented, so that an answer to words drawn at random is not empty
        command += ["--extra-inputs", "ignore_eos:true"]
    # offline, it takes a folder for a name on the hub
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    made = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=300
    )
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    report = json.loads(next(tmp_path.rglob("profile_export_aiperf.json")).read_text())
    assert report["request_count"]["avg"] == 8, report
    assert not report.get("error_request_count"), report["error_request_count"]
