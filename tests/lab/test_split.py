"""The hold-out is a property of the text: stable, disjoint, and never drawn for training."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest

from serve_app.lab.batches import RoundShape, round_of_batches
from serve_app.lab.model import VOCABULARY, build_tokenizer
from serve_app.lab.sample import draw, normalise, sample, split_of
from serve_app.lab.tasks import CELLS

PINNED_COUNT = 13
PINNED_FIRST = ["what is 2 + 7?", "what is 3 + 10?", "what is 5 + 12?"]


def test_split_ignores_case_spacing_and_the_question_mark() -> None:
    assert normalise("  What IS 1 +  2? ") == "what is 1 + 2"
    for item in sample(200, 1, "unseen"):
        assert split_of(item.prompt.upper().rstrip("?") + "  ") == "unseen"


def test_split_is_pinned() -> None:
    """The committed weights rest on this assignment: changing it would leak trained queries."""
    prompts = [f"what is {a} + {b}?" for a in range(20) for b in range(20)]
    held_out = [prompt for prompt in prompts if split_of(prompt) == "unseen"]
    assert len(held_out) == PINNED_COUNT
    assert held_out[:3] == PINNED_FIRST


@pytest.mark.slow
def test_samples_of_both_splits_are_disjoint() -> None:
    seen = {normalise(item.prompt) for item in sample(3000, 1, "train")}
    unseen = {normalise(item.prompt) for item in sample(3000, 1, "unseen")}
    assert not seen & unseen


def test_training_rounds_hold_no_unseen_query() -> None:
    tokenizer = build_tokenizer()
    marks = [VOCABULARY.index(token) for token in ("<|user|>", "<|assistant|>")]
    prompts = 0
    for step in round_of_batches(0, 0, [1.0] * len(CELLS), RoundShape(rows=64)):
        for row in (np.concatenate([np.ravel(batch.ids) for batch in step]),):
            starts, ends = (np.flatnonzero(row == mark) for mark in marks)
            for start, end in zip(starts, ends, strict=True):
                assert split_of(tokenizer.decode(row[start + 1 : end])) == "train"
                prompts += 1
    assert prompts > 2500


def test_sample_is_balanced_and_seeded() -> None:
    items = sample(2 * len(CELLS), 3, "unseen")
    assert set(Counter((item.task, item.size) for item in items).values()) == {2}
    assert items == sample(2 * len(CELLS), 3, "unseen")
    assert items != sample(2 * len(CELLS), 4, "unseen")
    assert sample(0, 3, "train") == []


def test_every_cell_has_unseen_queries() -> None:
    for task, size in CELLS:
        item = draw(Random(5), task, size, "unseen")
        assert split_of(item.prompt) == "unseen"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="n is -1"):
        sample(-1, 0, "train")
    with pytest.raises(ValueError, match="split is 'test'"):
        sample(1, 0, "test")  # type: ignore[arg-type]
