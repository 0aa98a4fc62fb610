"""The benchmark of adapters: its rows do not overlap, its choice is that of the model, and it says what is missed."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.task_adapters import isear, lab
from benchmarks.task_adapters.__main__ import arguments, skipped
from benchmarks.task_adapters.choice import first_label, free_answers, label_scores
from benchmarks.task_adapters.report import text
from serve_app.lab import models_dir


def row(task: str, small: float, adapted: float, large: float, cost: float = 0.15) -> dict[str, object]:
    figures = {"small": (small, 0.1), "adapted": (adapted, cost), "large": (large, 1.0)}
    found = {name: {"exact": q, "exact_95": [q, q], "usd_per_thousand": c} for name, (q, c) in figures.items()}
    return {"task": task, "n": 100, "rank": 16, "small_parameters": 100, "adapter_parameters": 50, **found}


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([row("a", 0.5, 0.7, 0.7), row("b", 0.9, 0.96, 0.96)], 0),
        ([row("a", 0.5, 0.69, 0.7)], 1),
        ([row("a", 0.5, 0.9, 1.0)], 1),
        ([row("a", 0.5, 0.99, 1.0, cost=0.26)], 1),
        ([row("a", 0.5, 0.6, 1.0, cost=0.26)], 3),
    ],
)
def test_what_is_missed_is_said(rows: list[dict[str, object]], count: int) -> None:
    assert len(lab.missed(rows)) == count


def test_an_adapters_parameters_are_paid() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(models_dir() / "small"), None
    tokenizer = AutoTokenizer.from_pretrained(models_dir() / "small")
    items = lab.sample(20, 1, "unseen", ("reverse",))
    cheap, dear = (lab._answers(model, tokenizer, items, usd) for usd in (0.1, 0.2))
    assert list(cheap.right) == list(dear.right)
    assert np.allclose(2 * np.array(cheap.usd), dear.usd)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], add_generation_prompt=True)
    assert lab._tokens(tokenizer, "abc", "cba") == len(prompt["input_ids"]) + 4


def write_isear(folder: Path, rows: list[tuple[str, int]]) -> Path:
    (folder / "streams").mkdir()
    with gzip.open(folder / isear.FILE, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    return folder


def test_parts_do_not_overlap_and_empty_reports_are_left_out(tmp_path: Path) -> None:
    rows = [(f"When number {i} happened.", i % 7) for i in range(40)]
    folder = write_isear(tmp_path, [*rows, *rows, ("[ No response.]", 1), ("Never", 2)])
    parts = isear.read(folder, 20, 8, 12, seed=0)
    texts = [report.text for part in (parts.train, parts.choose, parts.measure) for report in part]
    assert len(texts) == len(set(texts)) == 40 and {report.emotion for report in parts.train} <= set(isear.LABELS)
    assert isear.read(folder, 20, 8, 12, seed=1).train != parts.train
    with pytest.raises(ValueError, match="40 rows, 41 are needed"):
        isear.read(folder, 20, 8, 13, seed=0)


def test_scores_are_the_labels_log_probabilities() -> None:
    model = AutoModelForCausalLM.from_pretrained(models_dir() / "small").eval()
    tokenizer = AutoTokenizer.from_pretrained(models_dir() / "small")
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": query}], tokenize=False, add_generation_prompt=True)
        for query in ("what is 40 + 2?", "reverse abc")
    ]
    labels = ["42", "cba", "7"]
    scores = label_scores(model, tokenizer, prompts, labels)
    for i, prompt in enumerate(prompts):
        for k, label in enumerate(labels):
            before = tokenizer.encode(prompt, add_special_tokens=False)
            end = tokenizer.encode(label, add_special_tokens=False)
            with torch.inference_mode():
                logprobs = model(torch.tensor([before + end])).logits[0].log_softmax(-1)
            own = sum(float(logprobs[len(before) - 1 + at, token]) for at, token in enumerate(end))
            assert scores[i, k] == pytest.approx(own, abs=1e-3)
    assert free_answers(model, tokenizer, prompts) == ["42", "cba"]
    assert scores.argmax(1).tolist() == [0, 1]


def test_the_first_label_of_a_text_counts() -> None:
    assert first_label("It is Fear, not joy.", isear.LABELS) == isear.LABELS.index("fear")
    assert first_label("I cannot say.", isear.LABELS) == -1


def test_why_smollm2_is_skipped(tmp_path: Path) -> None:
    assert skipped(arguments([])) == "give --smollm2 and --data"
    model = str(models_dir() / "small")
    assert "there is no model in" in str(skipped(arguments(["--smollm2", str(tmp_path), "--data", str(tmp_path)])))
    assert "isear.jsonl.gz" in str(skipped(arguments(["--smollm2", model, "--data", str(tmp_path)])))
    write_isear(tmp_path, [])
    assert skipped(arguments(["--smollm2", model, "--data", str(tmp_path)])) is None
    assert "was not measured: no data" in text({}, "no data")
    with pytest.raises(SystemExit):
        arguments(["--n", "10"])
