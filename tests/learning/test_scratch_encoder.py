"""The encoder trained from nothing: its name, its pieces, the same for the same texts."""

import pytest
import torch

from serve_app.errors import ConfigError
from serve_app.learning.scratch_encoder import SMALL, Shape, fresh_encoder, learned_tokenizer

TEXTS = ["what is 12 + 7?"] * 9 + ["reverse oak"] * 9 + ["naïve Café"]


def test_names_of_shapes() -> None:
    assert Shape.named(SMALL) == Shape() == Shape(2, 128)
    assert Shape.named("scratch-3x64") == Shape(3, 64)
    assert Shape.named("minilm") is None and Shape.named("some/scratch-3x64") is None


@pytest.mark.parametrize("name", ["scratch-0x64", "scratch-2x65", "scratch-13x64", "scratch-2x1024"])
def test_shapes_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Shape.named(name)


def test_frequent_words_are_one_piece_and_others_are_spelt() -> None:
    tokenizer = learned_tokenizer(TEXTS)
    assert tokenizer.tokenize("What is 123?") == ["what", "is", "1", "2", "3", "?"]
    assert tokenizer.tokenize("reverse koa") == ["reverse", "k", "##o", "##a"]
    assert tokenizer.tokenize("日本") == ["[UNK]"]
    ends = tokenizer("oak")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["[CLS]", "oak", "[SEP]"]


def test_the_same_texts_give_the_same_tokenizer_in_any_order() -> None:
    found = {learned_tokenizer(texts).backend_tokenizer.to_str() for texts in (TEXTS, TEXTS[::-1], TEXTS)}
    assert len(found) == 1


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two, other = (fresh_encoder(Shape(1, 32), 50, 32, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
