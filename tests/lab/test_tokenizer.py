"""The character tokenizer: round trip, unknown characters, chat template, saved form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from serve_app.lab.batches import encode
from serve_app.lab.model import CHARACTERS, CONTEXT_TOKENS, UNK, VOCABULARY, build_tokenizer
from serve_app.lab.sample import sample


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(st.text(alphabet=CHARACTERS, max_size=60))
def test_round_trip_is_exact_on_its_alphabet(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text)
    assert TOKENIZER.decode(ids) == text


@given(st.text(max_size=60))
def test_any_text_encodes(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert all(0 <= index < len(VOCABULARY) for index in ids)


TOKENIZER = build_tokenizer()


def test_unknown_characters_become_unknown_tokens(tokenizer: Any) -> None:
    unknown = VOCABULARY.index(UNK)
    assert tokenizer.encode("é🙂\t") == [unknown] * 3
    assert tokenizer.encode("") == []


def test_case_is_folded(tokenizer: Any) -> None:
    assert tokenizer.encode("ReVerse Stone") == tokenizer.encode("reverse stone")


def test_training_encodes_as_the_saved_tokenizer_does(tokenizer: Any) -> None:
    for item in sample(300, 0, "train"):
        assert tokenizer.encode(item.prompt) == list(encode(item.prompt))
        assert tokenizer.encode(item.answer) == list(encode(item.answer))


def test_chat_template_over_all_roles(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "1 + 1"},
        {"role": "assistant", "content": "2"},
        {"role": "tool", "content": "ok"},
        {"role": "user", "content": "2 + 2"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == ("<|bos|><|system|>be brief<|user|>1 + 1<|assistant|>2<|eos|><|tool|>ok<|user|>2 + 2<|assistant|>")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and len(ids) == 29


def test_chat_template_without_generation_prompt_and_with_an_empty_turn(tokenizer: Any) -> None:
    messages = [{"role": "developer", "content": "x"}, {"role": "assistant", "content": None}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|bos|><|system|>x<|assistant|><|eos|>"


def test_unknown_role_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(jinja2.TemplateError, match="poet"):
        tokenizer.apply_chat_template([{"role": "poet", "content": "x"}], tokenize=False)


def test_saved_tokenizer_keeps_specials_and_context(tokenizer: Any) -> None:
    assert len(tokenizer) == len(VOCABULARY)
    assert tokenizer.model_max_length == CONTEXT_TOKENS
    names = (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token)
    assert names == VOCABULARY[:4]
    assert tokenizer.decode(tokenizer.encode("<|eos|>a"), skip_special_tokens=True) == "a"
