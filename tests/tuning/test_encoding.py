"""Tokens of a row are those of service, and loss is on the answer and its end alone."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from serve_app.errors import ConfigError, DataError
from serve_app.lab.model import EOS, VOCABULARY, build_tokenizer
from serve_app.tuning.encoding import EncodedRow, encode, within
from serve_app.tuning.rows import TuningRow
from serve_app.tuning.training import IGNORE, _padded

STOPS = frozenset({VOCABULARY.index(EOS)})
ROW = TuningRow(
    ({"role": "system", "content": "be exact"}, {"role": "user", "content": "what is 640 + 47?"}), "687", "f, line 3"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_the_prompt_is_that_of_service_and_the_answer_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    (found,) = encode([ROW], tokenizer, STOPS)
    served = tokenizer.apply_chat_template([dict(m) for m in ROW.messages], add_generation_prompt=True)["input_ids"]
    assert list(found.prompt) == served
    assert tokenizer.decode(found.answer) == f"687{EOS}" and found.answer[-1] in STOPS


def test_labels_are_the_answer_alone() -> None:
    ids, labels = _padded([EncodedRow((1, 2, 3), (4, 5)), EncodedRow((1,), (6, 7))], filler=0)
    assert ids.tolist() == [[1, 2, 3, 4, 5], [1, 6, 7, 0, 0]]
    assert labels.tolist() == [[IGNORE, IGNORE, IGNORE, 4, 5], [IGNORE, 6, 7, IGNORE, IGNORE]]


def test_what_follows_the_end_of_a_turn_is_left_out(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.chat_template = tokenizer.chat_template.replace("+ eos_token }}", "+ eos_token + '\n' }}")
    assert encode([ROW], other, STOPS) == encode([ROW], tokenizer, STOPS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: None, "no chat template"),
        (lambda t: t.replace("+ eos_token", ""), "does not end an answer"),
        (lambda t: t.replace("'<|assistant|>' }}", "'<|assistant|><|unk|>' }}"), "another form"),
    ],
)
def test_a_template_that_cannot_teach_is_refused(change: object, fault: str, tmp_path: Path) -> None:
    made = build_tokenizer()
    made.chat_template = change(made.chat_template)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=fault):
        encode([ROW], made, STOPS)


def test_a_row_that_the_template_refuses_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    row = TuningRow(({"role": "function", "content": "x"},), "y", "f, line 9")
    with pytest.raises(DataError, match=r"f, line 9: the chat template refuses .*function"):
        encode([row], tokenizer, STOPS)


def test_long_rows_are_named_or_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    long = TuningRow(({"role": "user", "content": "x" * 40},), "y", "f, line 7")
    rows = [ROW, long]
    encoded = encode(rows, tokenizer, STOPS)
    assert within(rows, encoded, 64, skip=False) == [0, 1]
    with pytest.raises(DataError, match=r"1 of 2 rows are longer than 40 tokens \(f, line 7 has 45\)"):
        within(rows, encoded, 40, skip=False)
    assert within(rows, encoded, 40, skip=True) == [0]
