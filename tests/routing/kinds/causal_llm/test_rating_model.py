"""Ratings against the model called by hand, whatever the batch; long questions, odd models, files that changed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM, AutoTokenizer

from serve_app.errors import ConfigError
from serve_app.lab import models_dir
from serve_app.routing.kinds.causal_llm.rating_model import INSTRUCTION, RatingModel, check_files

TINY = models_dir() / "tiny"


@pytest.fixture(scope="module")
def model() -> RatingModel:
    return RatingModel(TINY)


def by_hand(question: str) -> tuple[np.ndarray, int]:
    """Softmax over the five rating tokens after the chat prompt, and the likeliest token of all."""
    tokenizer, network = AutoTokenizer.from_pretrained(TINY), AutoModelForCausalLM.from_pretrained(TINY)
    message = {"role": "user", "content": INSTRUCTION.format(question=question)}
    prompt = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        logits = network(**prompt).logits[0, -1]
    five = logits[[tokenizer.convert_tokens_to_ids(c) for c in "12345"]]
    return torch.softmax(five.double(), 0).numpy(), int(logits.argmax())


def test_ratings_are_the_next_tokens_chances_in_any_batch(model: RatingModel) -> None:
    questions = ["what is 3 + 4?", "?", "spell the word elephant backwards " * 5, ""]
    together = model.rate(questions)
    for i, question in enumerate(questions):
        chances, likeliest = by_hand(question)
        assert_allclose(together.chances[i], chances, atol=1e-5)
        assert_allclose(model.rate([question]).chances[0], chances, atol=1e-5)
        assert together.parsable[i] == (likeliest in model.rating_ids)
    assert model.rate([]).chances.shape == (0, 5)


def test_a_long_question_keeps_its_end_and_the_instruction() -> None:
    model = RatingModel(TINY, max_tokens=120)
    ids = model.tokens("x" * 5000 + " the end?")
    text = model.tokenizer.decode(ids)
    assert len(ids) <= 120
    assert text.startswith("<|bos|><|user|>rate 1 (fails)") and "x the end?\nrating:<|assistant|>" in text
    assert len(model.tokens("short?")) < 120
    assert len(RatingModel(TINY).tokens("x" * 5000)) == 512  # the model's context


def test_no_room_for_a_question_leaves_what_fits() -> None:
    assert len(RatingModel(TINY, max_tokens=20).tokens("what?")) == 20


def test_unparsable_where_another_token_is_likeliest(model: RatingModel) -> None:
    network = model.model
    other = model.tokenizer.convert_tokens_to_ids("z")
    before = model.rate(["hello"]).chances
    hook = network.lm_head.register_forward_hook(lambda _m, _i, out: out.index_fill(-1, torch.tensor([other]), 1e4))
    try:
        found = model.rate(["hello"])
    finally:
        hook.remove()
    assert not found.parsable[0]
    assert_allclose(found.chances, before, atol=1e-6)


def test_what_cannot_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        RatingModel(tmp_path)
    with pytest.raises(ConfigError, match=r"\{question\}"):
        RatingModel(TINY, instruction="rate this")
    model = RatingModel(TINY)
    model.tokenizer = lambda text, add_special_tokens: type("Out", (), {"input_ids": [1, 2]})
    with pytest.raises(ConfigError, match="one token"):
        _ = model.rating_ids


def test_saved_files_are_told_and_checked(model: RatingModel, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}", "utf-8")
    told = model.save(tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(told) and "card.json" not in told
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([*told, "card.json"])
    check_files(tmp_path, told)
    assert_allclose(RatingModel(tmp_path).rate(["hi"]).chances, model.rate(["hi"]).chances, atol=1e-6)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match=r"config\.json"):
        check_files(tmp_path, told)
    with pytest.raises(ConfigError, match="is not what was saved"):
        check_files(tmp_path, {"../elsewhere": [1, ""]})
