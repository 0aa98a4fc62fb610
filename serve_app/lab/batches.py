"""Training batches: lab queries as chats of token ids, grouped by length and padded on the right."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from serve_app.lab.model import BOS, CONTEXT_TOKENS, EOS, PAD, ROLES, VOCABULARY
from serve_app.lab.sample import draw, sample
from serve_app.lab.tasks import CELLS, Item

IGNORE = -100
"""Label of a token that carries no loss."""

SYSTEM_SHARE = 0.04
HISTORY_SHARE = 0.06
LONG_HISTORY_SHARE = 0.004
"""Shares of examples behind a system prompt, behind one to three earlier turns, and behind many."""

_SYSTEM_PROMPTS = (
    "you are a helpful assistant.",
    "answer briefly.",
    "answer with the bare result.",
    "you are a calculator. be exact.",
    "you are jethro.",
    "be concise and correct.",
)

_ID = {token: index for index, token in enumerate(VOCABULARY)}
_TABLE = np.full(128, _ID["<|unk|>"], dtype=np.int64)
for _token, _index in _ID.items():
    if len(_token) == 1:
        _TABLE[ord(_token)] = _index

_Example = tuple[NDArray[np.int64], NDArray[np.int64], int]
"""Ids, labels and cell of one chat."""


@dataclass(frozen=True, slots=True)
class RoundShape:
    """A round draws `examples`, sorts them by length into batches of `rows`, and joins `parts` to a step."""

    examples: int = 3072
    rows: int = 40
    parts: int = 3


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Ids and labels of shape [examples, tokens], and the cell (index into CELLS) of each example.

    Labels are aligned with the ids they name (the shift is the model's), IGNORE outside answers.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    cells: NDArray[np.int64]


def encode(text: str) -> NDArray[np.int64]:
    """Token ids of lower-case ASCII text without special tokens, as the tokenizer gives them."""
    return _TABLE[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]


def round_of_batches(seed: int, index: int, weights: Sequence[float], shape: RoundShape) -> list[list[TrainingBatch]]:
    """The steps of one training round, each of `shape.parts` batches of unlike lengths.

    `weights` holds each cell's share of the draws (any positive scale). The result depends on the
    arguments only, so that a resumed run sees what an uninterrupted one does.
    """
    rng = Random(f"lab-train-{seed}-{index}")
    cells = rng.choices(range(len(CELLS)), weights, k=shape.examples)
    examples = sorted((_chat(rng, cell, cells) for cell in cells), key=lambda example: len(example[0]))
    starts = range(0, shape.examples - shape.rows + 1, shape.rows)
    batches = [_pad(examples[start : start + shape.rows]) for start in starts]
    steps = len(batches) // shape.parts
    bands = [batches[part * steps : (part + 1) * steps] for part in range(shape.parts)]
    for band in bands:
        rng.shuffle(band)
    return [list(step) for step in zip(*bands, strict=True)]


def held_out_batches(seed: int, n: int, rows: int) -> list[TrainingBatch]:
    """`n` balanced unseen queries, each alone in its chat, as batches of `rows`."""
    cell_of = {cell: index for index, cell in enumerate(CELLS)}
    examples = [_encoded([item], cell_of[item.task, item.difficulty]) for item in sample(n, seed, "unseen")]
    examples.sort(key=lambda example: len(example[0]))
    return [_pad(examples[start : start + rows]) for start in range(0, n, rows)]


def _chat(rng: Random, cell: int, earlier: Sequence[int]) -> _Example:
    """One chat that ends in a query of `cell`; its history, if any, is of the cells in `earlier`."""
    roll = rng.random()
    turns = 0
    if roll < LONG_HISTORY_SHARE:
        turns = rng.randint(4, 10)
    elif roll < HISTORY_SHARE:
        turns = rng.randint(1, 3)
    system = rng.choice(_SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
    history = rng.choices(earlier, k=turns)
    items = [draw(rng, *CELLS[chosen], "train") for chosen in [*history, cell]]
    example = _encoded(items, cell, system)
    return example if len(example[0]) <= CONTEXT_TOKENS else _chat(rng, cell, earlier)


def _encoded(items: Sequence[Item], cell: int, system: str | None = None) -> _Example:
    pieces: list[NDArray[np.int64]] = [np.array([_ID[BOS]])]
    kept: list[bool] = [False]
    if system is not None:
        pieces.append(_turn("system", system))
        kept.append(False)
    for item in items:
        pieces += [_turn("user", item.prompt), _turn("assistant", ""), encode(item.answer), np.array([_ID[EOS]])]
        kept += [False, False, True, True]
    ids = np.concatenate(pieces)
    mask = np.repeat(kept, [len(piece) for piece in pieces])
    return ids, np.where(mask, ids, IGNORE), cell


def _turn(role: str, text: str) -> NDArray[np.int64]:
    return np.concatenate([[_ID[ROLES[role]]], encode(text)])


def _pad(examples: Sequence[_Example]) -> TrainingBatch:
    width = max(len(ids) for ids, _, _ in examples)
    ids = np.full((len(examples), width), _ID[PAD], dtype=np.int64)
    labels = np.full((len(examples), width), IGNORE, dtype=np.int64)
    for row, (tokens, targets, _) in enumerate(examples):
        ids[row, : len(tokens)] = tokens
        labels[row, : len(targets)] = targets
    return TrainingBatch(ids, labels, np.array([cell for _, _, cell in examples]))
