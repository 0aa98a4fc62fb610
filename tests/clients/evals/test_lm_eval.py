"""EleutherAI's harness: its two models of a local API over a task of its own kind, whose rows lie in a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """task: sums
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 16}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    rows = [{"question": f"what is {n} + 2?", "answer": str(n + 2)} for n in (40, 41, 50, 61)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sums.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    return tmp_path


@pytest.mark.parametrize("kind", ["local-chat-completions", "local-completions"])
def test_load(url: str, key: str, tasks: Path, kind: str) -> None:
    chat = kind == "local-chat-completions"
    where = f"model=jlab-large,base_url={url}/{'chat/completions' if chat else 'completions'},num_concurrent=2"
    if not chat:
        where += f",tokenized_requests=False,tokenizer={os.environ['JETHRO_CLIENTS_TOKENIZER']}"
    command = [str(Path(sys.executable).parent / "lm_eval"), "--model", kind, "--model_args", where]
    command += ["--tasks", "sums", "--include_path", str(tasks), "--output_path", str(tasks / "out")]
    environment = {**os.environ, "OPENAI_API_KEY": key, "HF_HOME": str(tasks / "home")}
    made = subprocess.run(
        command + ["--apply_chat_template"] * chat, env=environment, capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-4000:]
    results = json.loads(next((tasks / "out").rglob("results_*.json")).read_text())
    assert results["results"]["sums"]["exact_match,none"] >= (0.75 if chat else 0)
