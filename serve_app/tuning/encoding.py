"""Conversations as token ids through a model's own chat template: the prompt exactly as it is served, then the answer.

Prompt and answer are made into tokens apart, as in service, where the model continues the prompt's tokens. The answer
ends with the token that ends a turn, so that the model learns to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.errors import ConfigError, DataError
from serve_app.tuning.rows import TuningRow

_SHOWN = 3
"""Rows that an error names."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of a prompt and of its answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def encode(rows: Sequence[TuningRow], tokenizer: Any, stops: frozenset[int]) -> list[EncodedRow]:
    """The rows as tokens; `stops` are the ids that end an answer.

    Raises ConfigError for a tokenizer without chat template or one whose template does not end a turn, DataError
    naming the row that the template refuses.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "the base model has no chat template: give an instruction-tuned model, or add one to its folder"
        )
    return [_encoded(row, tokenizer, stops) for row in rows]


def _encoded(row: TuningRow, tokenizer: Any, stops: frozenset[int]) -> EncodedRow:
    messages = [dict(message) for message in row.messages]
    try:
        before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        turn = {"role": "assistant", "content": row.answer}
        whole = tokenizer.apply_chat_template([*messages, turn], tokenize=False)
    except Exception as error:  # templates raise errors of Jinja's and of their own
        raise DataError(f"{row.where}: the chat template refuses the conversation ({error})") from error
    if not whole.startswith(before):
        raise ConfigError("the base model's chat template writes an answer in another form than it prompts for one")
    prompt = tokenizer.encode(before, add_special_tokens=False)
    answer = tokenizer.encode(whole[len(before) :], add_special_tokens=False)
    ends = [index for index, token in enumerate(answer) if token in stops]
    if not ends:
        raise ConfigError("the base model's chat template does not end an answer with a token that stops generation")
    return EncodedRow(tuple(prompt), tuple(answer[: ends[0] + 1]))


def within(rows: Sequence[TuningRow], encoded: Sequence[EncodedRow], most: int, skip: bool) -> list[int]:
    """Positions of the rows of at most `most` tokens. Raises DataError naming longer ones, unless `skip`."""
    long = [i for i, row in enumerate(encoded) if len(row) > most]
    if long and not skip:
        named = "; ".join(f"{rows[i].where} has {len(encoded[i]):,}" for i in long[:_SHOWN])
        raise DataError(
            f"{len(long):,} of {len(rows):,} rows are longer than {most:,} tokens ({named}): shorten them, raise "
            "--max-tokens as far as the model's context allows, or leave them out with --skip-long"
        )
    return [i for i, row in enumerate(encoded) if len(row) <= most]
