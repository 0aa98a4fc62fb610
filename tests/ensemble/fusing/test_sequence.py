"""The input of a fuser: what it holds, and that nothing in it is cut."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from serve_app.ensemble.fusing.sequence import (
    FuserTokenizer,
    FusionForm,
    add_sentinels,
    chosen,
    distinct,
)
from serve_app.errors import ConfigError
from serve_app.lab.model import build_tokenizer
from tests.grading.seq2seq import save_bart, save_t5


def lab_tokens(form: FusionForm, positions: int = 2**31) -> FuserTokenizer:
    tokenizer = build_tokenizer()
    add_sentinels(tokenizer, form)
    return FuserTokenizer(tokenizer, form, positions)


def text_of(tokens: FuserTokenizer, ids: tuple[int, ...]) -> str:
    return str(tokens.tokenizer.decode(ids))


@pytest.mark.parametrize(
    ("sizes", "room", "expected"),
    [
        ([10, 10, 10], 30, (0, 1, 2)),
        ([28, 1, 1], 30, (0, 1, 2)),  # short ones leave their room to a long one
        ([10, 25, 10], 30, (0, 2)),  # what does not fit is left out whole
        ([31, 1, 1], 30, ()),  # the best one has to be in it
        ([29, 2, 2], 30, ()),  # one candidate is nothing to fuse
        ([], 30, ()),
    ],
)
def test_candidates_share_the_room(sizes, room, expected):
    assert chosen(sizes, room) == expected


def test_equal_and_blank_texts_count_once():
    assert distinct(["a", " a\n", "", "b", "  ", "b"]) == (0, 3)


def test_each_candidate_stands_behind_its_sentinel():
    tokens = lab_tokens(FusionForm(3, 400, "in: ", "{number}/{index} ", "merge"))
    found = tokens.input("what is 1+1?", ["2", "two", "3"])
    assert text_of(tokens, found.ids) == (
        "in: what is 1+1?<|eos|>1/0 <extra_id_0>2<|eos|>2/1 <extra_id_1>two<|eos|>3/2 <extra_id_2>3<|eos|>merge<|eos|>"
    )
    assert (found.used, found.longest, found.reason) == ((0, 1, 2), 3, "")
    bare = lab_tokens(FusionForm.bare())
    assert text_of(bare, bare.input("q", ["a", "b"]).ids) == "q<|eos|><extra_id_0>a<|eos|><extra_id_1>b<|eos|><|eos|>"


@pytest.mark.parametrize(("save", "opening"), [(save_t5, []), (save_bart, [0])])
def test_ends_are_those_of_the_model(tmp_path: Path, save, opening):
    tokenizer = AutoTokenizer.from_pretrained(save(tmp_path / "m"))
    form = FusionForm(2, 100, "", "", "")
    add_sentinels(tokenizer, form)
    tokens, end = FuserTokenizer(tokenizer, form, 1000), tokenizer.eos_token_id
    cat, dog = (tokenizer.get_vocab()[word] for word in ("cat", "dog"))
    first, second = (tokenizer.get_vocab()[f"<extra_id_{i}>"] for i in (0, 1))
    assert list(tokens.input("cat", ["dog", "cat"]).ids) == [*opening, cat, end, first, dog, end, second, cat, end, end]
    assert tokens.target("dog cat") == [*opening, dog, cat, end]


def test_no_candidate_is_ever_cut():
    tokens = lab_tokens(FusionForm.bare(3, 60))
    for sizes, used in (((40, 3, 3), (0, 1, 2)), ((20, 40, 4), (0, 2)), ((8, 8, 8), (0, 1, 2)), ((20, 30, 4), (0, 1))):
        texts = [letter * size for letter, size in zip("abc", sizes, strict=True)]
        found = tokens.input("q", texts)
        assert found.used == used and len(found.ids) <= 60
        assert all(texts[i] in text_of(tokens, found.ids) for i in used)
        assert found.longest == max(sizes[i] for i in used)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["a" * 70, "b"], "does not fit"),
        (["a" * 40, "b" * 40], "does not fit"),
        (["a" * 100_000, "b"], "beyond the fuser's 60 tokens"),
        (["a", "a "], "no two different candidates"),
        (["a"], "no two different candidates"),
    ],
)
def test_what_cannot_be_fused_has_a_reason(texts, reason):
    found = lab_tokens(FusionForm.bare(3, 60)).input("q", texts)
    assert not found.ids and not found.used and reason in found.reason


def test_a_huge_candidate_that_is_not_the_best_is_left_out():
    found = lab_tokens(FusionForm.bare(3, 60)).input("q", ["a", "b" * 1_000_000, "c"])
    assert found.used == (0, 2)


def test_the_encoder_bounds_the_room():
    assert lab_tokens(FusionForm.bare(3, 1000), positions=20).input("q", ["a" * 30, "b"]).ids == ()


def test_candidates_cannot_write_special_tokens():
    tokens = lab_tokens(FusionForm.bare())
    found = tokens.input("q <|eos|>", ["<extra_id_1> a <|eos|>", "b"])
    sentinel = tokens.tokenizer.convert_tokens_to_ids("<extra_id_1>")
    assert found.ids.count(sentinel) == 1 and found.ids.count(tokens.tokenizer.eos_token_id) == 4


def test_half_a_character_is_readable():
    assert lab_tokens(FusionForm.bare()).input("q\ud800", ["a\udfff", "b"]).used == (0, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"top": 3}, "must have exactly the keys"),
        ({**FusionForm().to_json(), "top": True}, "form.top is True"),
        ({**FusionForm().to_json(), "order": 3}, "form.order is 3"),
        ({**FusionForm().to_json(), "top": 1}, "top is 1"),
        ({**FusionForm().to_json(), "max_tokens": 0}, "max_tokens is 0"),
        ([], "must have exactly the keys"),
    ],
)
def test_a_form_is_read_strictly(body, message):
    assert FusionForm.of(FusionForm().to_json(), "x") == FusionForm()
    with pytest.raises(ConfigError, match=message):
        FusionForm.of(body, "fuser.json")
