from types import SimpleNamespace

import pytest

from serve_app.engines.transformers.guided.vocabulary import Vocabulary
from serve_app.errors import ConfigError
from serve_app.lab.model import build_tokenizer
from tests.engines.transformers.guided.walks import EOS, vocabulary


def test_bytes_that_no_token_writes_get_tokens_beyond_the_model_s():
    made = vocabulary()
    capital = next(t for t in range(made.size, made.extended) if made.bytes_of[t] == b"N")
    assert made.size == len(build_tokenizer())
    assert made.model_id(capital) == build_tokenizer().unk_token_id
    assert made.model_id(9) == 9
    own = build_tokenizer().encode("ab", add_special_tokens=False)
    assert made.decode([own[0], capital, own[1]]) == "aNb"


def test_an_incomplete_character_is_the_replacement_character_until_it_is_whole():
    made = vocabulary()
    beyond = {made.bytes_of[token]: token for token in range(made.size, made.extended)}
    first, second = (beyond[bytes([byte])] for byte in "é".encode())
    assert made.decode([first]) == "�"
    assert made.decode([first, second]) == "é"


def test_digits_that_say_their_place_write_plain_digits():
    made = vocabulary()
    ids = build_tokenizer().encode("4207", add_special_tokens=False)
    assert b"".join(made.bytes_of[i] for i in ids) == b"4207"


def test_an_end_beyond_the_vocabulary_is_none():
    assert Vocabulary(build_tokenizer(), frozenset([EOS, 2**30])).eos_ids == [EOS]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="no fast version"):
        Vocabulary(SimpleNamespace(backend_tokenizer=None), frozenset([EOS]))


def test_a_tokenizer_whose_tokens_do_not_decode_alone_is_refused():
    tokenizer = build_tokenizer()
    from tokenizers import decoders

    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.Replace("a", "aa"), decoders.Fuse()])
    with pytest.raises(ConfigError, match="one by one"):
        Vocabulary(tokenizer, frozenset([EOS]))
