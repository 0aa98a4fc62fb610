"""The lab's model card, written from measured numbers."""

from __future__ import annotations

import json
from pathlib import Path

from serve_app.lab.build import NOTE
from serve_app.lab.evaluate import LabReport, ModelReport
from serve_app.lab.model import CONTEXT_TOKENS, SIZES
from serve_app.lab.sample import sample
from serve_app.lab.tasks import TASKS

EXAMPLES_SEED = 5

_TEXT = """\
# Lab models

Two tiny language models in Hugging Face's format (`LlamaForCausalLM`, float32, tied embeddings, a
character tokenizer with a chat template, {context} positions). They are real models and ordinary model
folders: transformers and vLLM load them like any other. They are **not general assistants**: they know
the {tasks} task families below and nothing else, and answer anything else with nonsense. They exist so
that routing between a weak and a strong model can be seen and measured, truly, on a laptop.

{sizes}

## What they answer

English queries, lower or upper case, of known difficulty 1 to 5, each with one exact answer:

{examples}

## How good they are

Greedy decoding on {n:,} unseen queries, balanced over task and difficulty (seed {seed}), graded by exact
match. Unseen means that the query's text, white space and case aside, falls in the twentieth of all texts
(by hash) on which no training run is allowed to train. The same numbers in another phrasing may have been
trained on; small families (weekdays, low Roman numerals, weeks to days) could not be learned otherwise.

{summary}

{table}

## How they were trained

From random weights, on queries drawn afresh for every step by the seeded generators in
`serve_app/lab/tasks`: `large` on all five difficulties, `small` on difficulties 1 to {hardest} only, so that it
is good at the easy part and bad at the rest, as a weak model in a real pair is. A cell (task and
difficulty) is drawn more often the more of its queries are still answered wrongly, and less while the
next easier one is not learned. The loss is on answers only. 6 % of the examples have earlier turns before
the last query, 4 % a system prompt. Muon for matrices, AdamW for embeddings and norms, learning rate
falling linearly to zero, one CPU thread each. `jethro lab build` trains them anew. The committed weights
came out of resumed runs while the definitions of the tasks were still being settled (`large` saw looking
things up three times as often for a while, `small` began with difficulties 1 and 2 alone), so a new build
gives models of their kind, not the same numbers.

## Limits

- English phrasings close to those above; other wordings often fail. Answers are bare results.
- Arithmetic beyond the trained lengths (sums of three and two digits, two-digit by one-digit products) is wrong.
- Trained mostly on single queries: long chats cost accuracy, and beyond about 400 characters nothing was
  trained at all.
- Characters outside printable ASCII become one unknown token.
"""


def write_card(models_dir: Path, report: LabReport) -> Path:
    """Write `models_dir`/README.md from a report over the models in it; returns its path."""
    notes = {model.name: json.loads((models_dir / model.name / NOTE).read_text()) for model in report.models}
    text = _TEXT.format(
        context=CONTEXT_TOKENS,
        hardest=SIZES["small"].hardest,
        tasks=len(TASKS),
        sizes=_sizes(models_dir, report, notes),
        examples=_examples(),
        n=len(report.models[0].items),
        seed=report.seed,
        summary="\n".join(f"- {line}" for line in report.summary().splitlines()),
        table=report.table(),
    )
    path = models_dir / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _sizes(models_dir: Path, report: LabReport, notes: dict[str, dict[str, int]]) -> str:
    header = (
        "| model | parameters | weights, kB | exact on unseen | trained on, tokens | minutes, one CPU thread |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    )
    rows = (_size_row(models_dir / model.name, model, notes[model.name]) for model in report.models)
    return "\n".join([*header, *rows])


def _size_row(folder: Path, model: ModelReport, note: dict[str, int]) -> str:
    weights_kb = (folder / "model.safetensors").stat().st_size / 1000
    return (
        f"| {model.name} | {note['parameters']:,} | {weights_kb:,.0f} | {100 * model.share().value:.1f} % "
        f"| {note['tokens']:,} | {note['seconds'] / 60:.0f} |"
    )


def _examples() -> str:
    """A table with one easy and one hard query of each family."""
    items = sample(2000, EXAMPLES_SEED, "train")
    lines = ["| task | difficulty 1 | difficulty 5 |", "| --- | --- | --- |"]
    for task in TASKS:
        easy, hard = (next(item for item in items if (item.task, item.difficulty) == (task, level)) for level in (1, 5))
        lines.append(f"| {task} | `{easy.prompt}` → {easy.answer} | `{hard.prompt}` → {hard.answer} |")
    return "\n".join(lines)
