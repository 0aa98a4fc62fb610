import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from serve_app.engines.transformers.text import Detokenizer, decoder
from serve_app.lab.model import build_tokenizer


def byte_level() -> PreTrainedTokenizerFast:
    """Every token is one byte, as in the smallest GPT-2 style vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def metaspace() -> PreTrainedTokenizerFast:
    """Words with a leading space mark, which decoding strips at the beginning, as sentencepiece does."""
    words = ["▁", "▁hello", "▁world", "hello", "world", ",", "▁a"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="▁"))
    core.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core)


BYTES, WORDS, LAB = byte_level(), metaspace(), build_tokenizer()


def pieces(tokenizer, prompt_ids, ids):
    detokenizer = Detokenizer(decoder(tokenizer), prompt_ids)
    found = [detokenizer.add(i) for i in ids]
    return [*found, detokenizer.flush()]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.text("ab é", max_size=9))
def test_byte_level_pieces_join_to_the_text_and_never_hold_half_a_character(text, prompt):
    found = pieces(BYTES, BYTES(prompt).input_ids, BYTES(text).input_ids)
    assert "".join(found) == text
    assert text.count("�") == sum(p.count("�") for p in found)


def test_a_character_comes_whole_with_its_last_byte():
    assert pieces(BYTES, [], BYTES("a🙂b").input_ids) == ["a", "", "", "", "🙂", "b", ""]


def test_an_unfinished_character_comes_at_the_end_as_the_replacement():
    assert pieces(BYTES, [], BYTES("é").input_ids[:1]) == ["", "�"]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_leading_spaces_inside_a_text_are_kept(prompt_ids, ids):
    whole, prompt = (WORDS.decode(x) for x in (prompt_ids[-6:] + ids, prompt_ids[-6:]))
    assert "".join(pieces(WORDS, prompt_ids, ids)) == whole[len(prompt) :]


@given(st.lists(st.integers(0, len(LAB) - 1), max_size=30))
def test_lab_tokens_leave_special_ones_out(ids):
    assert "".join(pieces(LAB, LAB("hi").input_ids, ids)) == LAB.decode(ids, skip_special_tokens=True)


def test_a_tokenizer_without_a_rust_backend_decodes_the_same():
    class Slow:
        def decode(self, ids, **options):
            assert options == {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
            return LAB.decode(ids, skip_special_tokens=True)

    ids = LAB("hello").input_ids
    assert pieces(Slow(), [], ids) == pieces(LAB, [], ids)


@pytest.mark.parametrize("count", [1, 50, 500])
def test_the_window_does_not_grow_with_the_text(count):
    seen = []

    def decode(ids):
        seen.append(len(ids))
        return "x" * len(ids)

    detokenizer = Detokenizer(decode, list(range(count)))
    for i in range(count):
        detokenizer.add(i)
    assert max(seen) <= 7
