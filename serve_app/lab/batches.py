"""Training batches: lab queries as chats of token ids, grouped by length and padded on the right."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.lab.model import BOS, CONTEXT_TOKENS, EOS, PAD, ROLES, VOCABULARY, mark_places
from serve_app.lab.sample import draw, sample, split_of
from serve_app.lab.tasks import CELLS, TASKS, Item
from serve_app.lab.tasks.other import ANSWER

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


class _Example(NamedTuple):
    """One chat: ids and labels [tokens], its cell, and which of its answers is that to the cell's query."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    cell: int
    judged: int


@dataclass(frozen=True, slots=True)
class RoundShape:
    """A round draws `examples`, sorts them by length into batches of `rows`, and joins `parts` to a step."""

    examples: int = 3072
    rows: int = 40
    parts: int = 4


class Lesson(NamedTuple):
    """How a cell is taught: the share of plain forms, and of conversations that continue with further questions.

    Finding a fact in a text is learned from many questions about it that repeat themselves: plain forms with seven of
    them were all answered after 1.5 million tokens, where the first question alone stayed at chance for 60 million, and
    questions without repetition taught only to name what had not been said before.
    """

    plain: float = 0.0
    further: float = 0.1


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Ids and labels of shape [examples, tokens]; of each example its cell (index into CELLS), and which answer counts.

    Labels are aligned with the ids they name (the shift is the model's), IGNORE outside answers. `judged` is the
    position among a chat's answers, from 0, of that to the cell's query: earlier turns and further questions train, but
    are not what the cell is about.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    cells: NDArray[np.int64]
    judged: NDArray[np.int64]


def encode(text: str) -> NDArray[np.int64]:
    """Token ids of lower-case ASCII text without special tokens, as the tokenizer gives them."""
    return np.array([_ID[character] for character in mark_places(text)], dtype=np.int64)


def round_of_batches(
    seed: int,
    index: int,
    weights: Sequence[float],
    shape: RoundShape,
    tasks: Collection[str] = TASKS,
    lessons: Sequence[Lesson] = (),
) -> list[list[TrainingBatch]]:
    """The steps of one training round, each of `shape.parts` batches of unlike lengths.

    `weights` holds each cell's share of the draws (any positive scale), `lessons` how each is taught. The answer to a
    task that is not in `tasks` is that of `other`. The result depends on the arguments only: a resumed run sees what an
    uninterrupted one does.
    """
    rng = Random(f"lab-train-{seed}-{index}")
    cells = rng.choices(range(len(CELLS)), weights, k=shape.examples)
    taught = lessons or [Lesson()] * len(CELLS)
    examples = [_chat(rng, cell, cells, tasks, taught[cell]) for cell in cells]
    examples.sort(key=lambda example: len(example.ids))
    starts = range(0, shape.examples - shape.rows + 1, shape.rows)
    batches = [_pad(examples[start : start + shape.rows]) for start in starts]
    steps = len(batches) // shape.parts
    bands = [batches[part * steps : (part + 1) * steps] for part in range(shape.parts)]
    for band in bands:
        rng.shuffle(band)
    return [list(step) for step in zip(*bands, strict=True)]


def held_out_batches(
    seed: int, n: int, rows: int, tasks: Collection[str] = TASKS, foreign: bool = True
) -> list[TrainingBatch]:
    """`n` balanced unseen queries, each alone in its chat, as batches of `rows`; with `foreign`, of all tasks."""
    cell_of = {cell: index for index, cell in enumerate(CELLS)}
    items = (_known(item, tasks) for item in sample(n, seed, "unseen", TASKS if foreign else tasks))
    examples = [_encoded([item], cell_of[item.task, item.size]) for item in items]
    examples.sort(key=lambda example: len(example.ids))
    return [_pad(examples[start : start + rows]) for start in range(0, n, rows)]


def _known(item: Item, tasks: Collection[str]) -> Item:
    """The item as a model of these tasks should answer it."""
    return item if item.task in tasks else replace(item, answer=ANSWER)


def _chat(rng: Random, cell: int, earlier: Sequence[int], tasks: Collection[str], lesson: Lesson) -> _Example:
    """One chat that ends in a query of `cell`; its history, if any, is of the cells in `earlier`."""
    roll = rng.random()
    turns = 0
    if roll < LONG_HISTORY_SHARE:
        turns = rng.randint(4, 10)
    elif roll < HISTORY_SHARE:
        turns = rng.randint(1, 3)
    system = rng.choice(_SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
    history = rng.choices(earlier, k=turns)
    items = [_known(draw(rng, *CELLS[chosen], "train"), tasks) for chosen in history]
    items += _last_turns(rng, *CELLS[cell], tasks, lesson)
    example = _encoded(items, cell, system, judged=turns)
    return example if len(example.ids) <= CONTEXT_TOKENS else _chat(rng, cell, earlier, tasks, lesson)


def _last_turns(rng: Random, task: str, size: str, tasks: Collection[str], lesson: Lesson) -> list[Item]:
    """A query of the cell, or a conversation about it."""
    item = _known(draw(rng, task, size, "train"), tasks)
    in_plain = rng.random() < lesson.plain
    if task not in tasks or not (in_plain or rng.random() < lesson.further):
        return [item]
    turns = TASKS[task].conversation(rng, size, in_plain)
    if not turns or split_of(turns[0][0]) != "train":
        return [item]
    return [replace(item, prompt=prompt, answer=answer) for prompt, answer in turns if split_of(prompt) == "train"]


def _encoded(items: Sequence[Item], cell: int, system: str | None = None, judged: int = 0) -> _Example:
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
    return _Example(ids, np.where(mask, ids, IGNORE), cell, judged)


def _turn(role: str, text: str) -> NDArray[np.int64]:
    return np.concatenate([[_ID[ROLES[role]]], encode(text)])


def _pad(examples: Sequence[_Example]) -> TrainingBatch:
    width = max(len(example.ids) for example in examples)
    ids = np.full((len(examples), width), _ID[PAD], dtype=np.int64)
    labels = np.full((len(examples), width), IGNORE, dtype=np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        labels[row, : len(example.labels)] = example.labels
    return TrainingBatch(
        ids,
        labels,
        np.array([example.cell for example in examples]),
        np.array([example.judged for example in examples]),
    )
