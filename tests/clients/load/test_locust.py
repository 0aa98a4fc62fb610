"""locust: its own user of OpenAI's client, and an HttpUser, without a page in the browser."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OPENAI = """
from locust import task
from locust.contrib.oai import OpenAIUser

class Caller(OpenAIUser):
    @task
    def ask(self):
        self.client.chat.completions.create(
            model="jlab-large", messages=[{"role": "user", "content": "what is 40 + 2?"}]
        )
        with self.client.rename_request("Responses"):
            self.client.responses.create(model="jlab-large", input="what is 40 + 2?")
"""
HTTP = """
import os
from locust import HttpUser, task

class Caller(HttpUser):
    @task
    def ask(self):
        body = {"model": "jlab-large", "messages": [{"role": "user", "content": "what is 40 + 2?"}]}
        self.client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {os.environ['KEY']}"})
"""


@pytest.mark.parametrize("kind", ["openai", "http"])
def test_load(url: str, key: str, tmp_path: Path, kind: str) -> None:
    (tmp_path / "locustfile.py").write_text(OPENAI if kind == "openai" else HTTP)
    command = [sys.executable, "-m", "locust", "--headless", "--users", "2", "--run-time", "3s", "--json"]
    command += ["--host", url if kind == "openai" else url.removesuffix("/v1")]
    environment = {**os.environ, "KEY": key, "OPENAI_API_KEY": key, "OPENAI_BASE_URL": url}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    rows = json.loads(made.stdout)
    assert rows and all(row["num_requests"] > 0 and row["num_failures"] == 0 for row in rows), rows
