"""The committed weights: size, format, and that they are as good as their card says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from serve_app.ensemble.artefact import load_plan
from serve_app.ensemble.fusing.gen_fuser import GenFuser
from serve_app.ensemble.ranking.pair_ranker import load_ranker
from serve_app.lab import models_dir
from serve_app.lab.evaluate import LabReport, evaluate
from serve_app.lab.model import CONTEXT_TOKENS, SIZES, VOCABULARY
from serve_app.lab.tasks import CELLS
from serve_app.lab.tasks.other import ANSWER
from serve_app.training.lab_ensemble import FUSER, MEMBERS, RANKER

ENSEMBLE = models_dir().parents[1] / "ensemble" / "lab" / "plan"
ITEMS = 5 * len(CELLS)
SEED = 2027
LARGEST_BYTES = 16_000_000
FEWEST_TIMES_LARGER = 10


@pytest.fixture(scope="module")
def report() -> LabReport:
    return evaluate(models_dir(), n=ITEMS, seed=SEED)


@pytest.fixture(scope="module")
def specialists() -> LabReport:
    return evaluate(models_dir(), n=2 * len(CELLS), seed=SEED, models=MEMBERS[1:])


def test_weights_are_small_and_the_pair_far_apart() -> None:
    folders = (models_dir(), ENSEMBLE)
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= LARGEST_BYTES
    counts = {name: json.loads((models_dir() / name / "training.json").read_text())["parameters"] for name in SIZES}
    assert counts["large"] >= FEWEST_TIMES_LARGER * counts["small"]


@pytest.mark.parametrize("name", SIZES)
def test_folders_are_ordinary_model_folders(name: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(models_dir() / name)
    tokenizer: Any = AutoTokenizer.from_pretrained(models_dir() / name)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.config.head_dim == 32
    assert model.config.max_position_embeddings == CONTEXT_TOKENS == tokenizer.model_max_length
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert model.config.vocab_size == len(tokenizer) == len(VOCABULARY)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_large_is_nearly_always_right_and_small_about_half(report: LabReport) -> None:
    """Bounds leave three standard deviations of the sample around the card's shares."""
    small, large = report.models
    assert large.share().value >= 0.95
    assert 0.35 <= small.share().value <= 0.60


def test_a_specialist_knows_its_tasks_and_says_of_others_that_it_does_not(specialists: LabReport) -> None:
    for model in specialists.models:
        own = [task for task in SIZES[model.name].tasks if task != "other"]
        assert all(model.share(task=task).value >= 0.6 for task in own)
        others = [text for item, text in zip(model.items, model.answers, strict=True) if item.task not in own]
        assert sum(text == ANSWER for text in others) >= 0.95 * len(others)


def test_small_is_good_at_the_easy_and_bad_at_the_hard(report: LabReport) -> None:
    small = report.models[0]
    assert small.share(difficulty=1).value >= small.share(difficulty=5).value + 0.3


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("what is 12 + 30?", "42"),
        ("what is the largest of 3 9 4?", "9"),
        ("sort 9 3 5 1", "1 3 5 9"),
        ("reverse stone", "enots"),
        ("687 + 320", "1007"),
        ("sort 4 33", "4 33"),
        ("how many r in strawberry?", "3"),
        ("ann has 3 hats, tom has 5 cups. how many cups does tom have?", "5"),
        ("who wrote hamlet?", "i only know small tasks"),
    ],
)
def test_large_answers_the_promised_phrasings(prompt: str, answer: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(models_dir() / "large")
    tokenizer: Any = AutoTokenizer.from_pretrained(models_dir() / "large")
    for messages in (
        [{"role": "user", "content": prompt}],
        [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": prompt}],
        [
            {"role": "user", "content": "sort 4 2 8"},
            {"role": "assistant", "content": "2 4 8"},
            {"role": "user", "content": prompt},
        ],
    ):
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=40)
        text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text == answer, messages


def test_the_ensemble_that_ships_is_of_these_models() -> None:
    plan = load_plan(ENSEMBLE)
    assert dict(plan.models) == {name: f"jlab-{name}" for name in MEMBERS}
    ranker, fuser = load_ranker(ENSEMBLE / RANKER), GenFuser.load(ENSEMBLE / FUSER)
    candidates = ["i only know small tasks", "1007"]
    scores = ranker.scores("687 + 320", candidates)
    assert scores[1] > scores[0]
    assert fuser.fuse(["687 + 320"], [candidates[::-1]])[0].text == "1007"
