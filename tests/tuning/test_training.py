"""Adapters learn, stop, and resume: a run killed anywhere ends where one that was not ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from serve_app.adapters.files import ABOUT as NOTE
from serve_app.adapters.files import WEIGHTS
from serve_app.errors import ConfigError, DataError
from serve_app.lab import models_dir
from serve_app.lab.evaluate import greedy_answer
from serve_app.tuning.bases import load_base
from serve_app.tuning.lora import LoraShape
from serve_app.tuning.rows import TuningRow
from serve_app.tuning.training import AdapterLearner, TuningRecipe, train_adapter
from tests.tuning.rows_of_words import WORDS, word_rows, write

RECIPE = TuningRecipe(LoraShape(8), epochs=2, learning_rate=5e-3, rows=8, held_out_of=5, patience=9, checkpoint_s=0.0)
ABOUT = ("words", "translate", "Apache-2.0")


class Killed(Exception):
    """Stands for a signal."""


def trained(model: Path, rows: list[TuningRow], recipe: TuningRecipe, out: Path) -> list[str]:
    said = list[str]()
    train_adapter(load_base(str(model), device="cpu"), rows, recipe, ABOUT, out, said.append)
    return said


@pytest.mark.slow
def test_it_learns_the_answers_and_leaves_the_base_alone(tmp_path: Path) -> None:
    before = load_file(models_dir() / "small" / "model.safetensors")
    recipe = replace(RECIPE, epochs=12, shape=LoraShape(16))
    said = trained(models_dir() / "small", word_rows(4), recipe, tmp_path / "a")
    about = json.loads((tmp_path / "a" / NOTE).read_text())
    metrics = about["metrics"]
    assert metrics["held_out_loss"] < 0.3 * metrics["held_out_loss_before"]
    assert metrics["held_out_exact"] > 0.8 > 0.1 > metrics["held_out_exact_before"]
    assert metrics["rows"] + metrics["held_out"] == len(word_rows(4))
    assert (about["base"], about["rank"], about["task"]) == ("small", 16, "translate")
    assert "rows to learn from" in said[0] and "with the adapter: held-out loss" in said[-1]
    base = load_base("lab:small", device="cpu")
    model = peft.PeftModel.from_pretrained(base.model, tmp_path / "a").eval()
    asked = ["say red please", "ok, blue please", "what is green please", "and white please"]  # in no row
    answers = greedy_answer(model, base.tokenizer)(asked)
    right = sum(text == word for text, word in zip(answers, WORDS.values(), strict=True))
    assert right >= 3, answers
    weights = load_base("lab:small", device="cpu").model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in before.items())


@pytest.mark.parametrize("kill_at", [1, 5, 7])
def test_a_run_killed_at_any_step_ends_as_one_that_was_not(
    kill_at: int, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = word_rows()
    trained(random_model, rows, RECIPE, tmp_path / "whole")
    steps = 0
    answer = AdapterLearner.loss

    def count(self: AdapterLearner, batch: object) -> object:
        nonlocal steps
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            steps += 1
            if steps == kill_at:
                raise Killed
        return answer(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(AdapterLearner, "loss", count)
        with pytest.raises(Killed):
            trained(random_model, rows, RECIPE, tmp_path / "cut")
        assert not (tmp_path / "cut").exists()
        done = steps - 1
        said = trained(random_model, rows, RECIPE, tmp_path / "cut")
    in_all = RECIPE.epochs * -(-json.loads((tmp_path / "whole" / NOTE).read_text())["metrics"]["rows"] // RECIPE.rows)
    assert steps == kill_at + in_all - done, "no step is repeated"
    assert kill_at == 1 or any("resumes after epoch" in line for line in said)
    whole, cut = load_file(tmp_path / "whole" / WEIGHTS), load_file(tmp_path / "cut" / WEIGHTS)
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


@pytest.mark.slow
def test_a_process_killed_at_random_resumes_to_the_same_weights(random_model: Path, tmp_path: Path) -> None:
    data = write(word_rows(4), tmp_path / "rows.jsonl")
    code = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from serve_app.tuning.bases import load_base; from serve_app.tuning.lora import LoraShape\n"
        "from serve_app.tuning.rows import read_rows; from serve_app.tuning.training import *\n"
        "model, data, out = sys.argv[1:]\n"
        "recipe = TuningRecipe(LoraShape(8), epochs=8, learning_rate=5e-3, rows=8, held_out_of=5, patience=9,\n"
        "                      checkpoint_s=0.0, report_s=0.0)\n"
        "say = lambda line: print(line, flush=True)\n"
        "train_adapter(load_base(model, device='cpu'), read_rows([Path(data)]), recipe, ('w', 'w', 'x'), Path(out),\n"
        "              say)\n"
    )

    def start(out: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(random_model), str(data), str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))

    whole = start("whole")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0
    steps = said.count(" %, loss")
    after = random.Random(os.getpid()).randint(1, steps - 2)
    cut = start("cut")
    assert cut.stdout is not None
    for line in cut.stdout:
        after -= " %, loss" in line
        if after < 0:
            break
    time.sleep(0.05 * random.random())
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    assert cut.returncode == -signal.SIGKILL
    resumed = start("cut")
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0 and "resumes after epoch" in said
    whole_weights, weights = load_file(tmp_path / "whole" / WEIGHTS), load_file(tmp_path / "cut" / WEIGHTS)
    assert all(torch.equal(value, weights[name]) for name, value in whole_weights.items())


def test_it_stops_early_where_nothing_can_be_learned(random_model: Path, tmp_path: Path) -> None:
    noise = random.Random(5)
    rows = [replace(row, answer="".join(noise.choices("abcdefgh", k=6))) for row in word_rows()]
    recipe = replace(RECIPE, epochs=60, patience=1, learning_rate=2e-2)
    said = trained(random_model, rows, recipe, tmp_path / "a")
    epochs = [line for line in said if " of 60: loss" in line]
    assert 1 < len(epochs) < 60
    losses = [float(line.split("held back ")[1].split(",")[0]) for line in epochs]
    metrics = json.loads((tmp_path / "a" / NOTE).read_text())["metrics"]
    assert metrics["held_out_loss"] == pytest.approx(min(losses), abs=1e-3), "the best epoch's weights are kept"
    assert losses[-1] > min(losses)


def test_the_same_seed_gives_the_same_adapter_and_another_one_another(random_model: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(random_model, word_rows(), replace(recipe, seed=seed), tmp_path / name)
    a, b, c = (load_file(tmp_path / name / WEIGHTS) for name in "abc")
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert any(not torch.equal(value, c[name]) for name, value in a.items())


def test_nothing_is_trained_on_what_is_held_out(random_model: Path) -> None:
    learner = AdapterLearner(load_base(str(random_model), device="cpu"), word_rows(2), RECIPE)
    inside = {row for epoch in range(3) for batch in learner.batches(epoch) for row in batch}
    outside = {row for batch in learner.held_back() for row in batch}
    assert inside == set(learner.inside) and outside == set(learner.outside) and not inside & outside
    assert len(inside | outside) == len(word_rows(2))
    lengths = [max(len(learner._rows[i]) for i in batch) - min(len(learner._rows[i]) for i in batch)
               for batch in learner.batches(0)]  # fmt: skip
    assert max(lengths) < 10, "rows of like length are together"


def test_what_cannot_be_trained_is_refused_before_the_first_step(random_model: Path, tmp_path: Path) -> None:
    base = load_base(str(random_model), device="cpu")
    with pytest.raises(DataError, match="19 of 19 rows fit; an adapter needs 20 or more"):
        AdapterLearner(base, word_rows()[:19], RECIPE)
    with pytest.raises(DataError, match=r"36 of 36 rows are longer than 4 tokens \(row 0 has"):
        AdapterLearner(base, word_rows(), replace(RECIPE, most_tokens=4))
    with pytest.raises(ConfigError, match="max_tokens 513: the model reads 512 tokens at most"):
        AdapterLearner(base, word_rows(), replace(RECIPE, most_tokens=513))
    with pytest.raises(DataError, match=r"of 36 rows (0|36) are held out"):
        AdapterLearner(base, [replace(r, messages=word_rows()[0].messages) for r in word_rows()], RECIPE)
    with pytest.raises(ConfigError, match="epochs 0"):
        replace(RECIPE, epochs=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("base", "fault"),
    [("lab:medium", "base lab:medium: no model in .*jethro lab build"), ("/nowhere", "base /nowhere: no model in")],
)
def test_a_missing_base_is_named(base: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_base(base)


def test_a_base_in_another_format_is_refused(random_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((random_model / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no weights in \*\.safetensors"):
        load_base(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_base(str(tmp_path))


def test_in_bfloat16_the_loss_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    """With fewer heads of keys than of queries, as most models of today have."""
    from transformers import LlamaForCausalLM

    from serve_app.lab.model import SIZES, build_tokenizer, new_model

    config = new_model(SIZES["small"], 0).config
    config.num_attention_heads, config.num_key_value_heads = 4, 2
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = config.eos_token_id
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    found = []
    for bfloat16 in (False, True):
        recipe = replace(RECIPE, bfloat16=bfloat16)
        learner = AdapterLearner(load_base(str(tmp_path), device="cpu"), word_rows(), recipe)
        loss, _ = learner.loss(learner.batches(0)[0])
        loss.backward()
        found.append((float(loss.detach()), learner.held_out()))
    (exact, score), (rounded, other) = found
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)
    assert other.loss == pytest.approx(score.loss, rel=0.02)
