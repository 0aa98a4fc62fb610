"""How often lab models answer unseen queries exactly, by task, size and difficulty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.arrays import wilson
from serve_app.lab.sample import Split, sample
from serve_app.lab.tasks import LEVELS, TASKS, Item

Answer = Callable[[Sequence[str]], Sequence[str]]
"""Answers prompts (each a single user message), in order."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of right answers: `right` of `total`."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]; 0 without queries."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval."""
        return wilson(self.right, self.total)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model's answers to the items, with shares read from them."""

    name: str
    parameters: int | None
    items: tuple[Item, ...]
    answers: tuple[str, ...]
    right: tuple[bool, ...]

    def share(self, task: str | None = None, size: str | None = None, difficulty: int | None = None) -> Share:
        """Share of right answers over all items, or those of a task, a size, a difficulty, or what is given of them."""
        picked = [
            ok
            for item, ok in zip(self.items, self.right, strict=True)
            if task in (None, item.task) and size in (None, item.size) and difficulty in (None, item.difficulty)
        ]
        return Share(sum(picked), len(picked))


@dataclass(frozen=True, slots=True)
class LabReport:
    """Reports of several models over the same items."""

    split: Split
    seed: int
    models: tuple[ModelReport, ...]

    def table(self) -> str:
        """A Markdown table: a row per task and size, a column per model, in percent; a task's mean is its last row."""
        lines = [
            "| % exact | size | difficulty | " + " | ".join(model.name for model in self.models) + " |",
            "| --- | --- | ---: |" + " ---: |" * len(self.models),
        ]
        for name, task in TASKS.items():
            lines += [self._row(name, size, str(level), task=name, size=size) for size, level in task.sizes.items()]
            lines.append(self._row(f"**{name}**", "all", "", task=name))
        lines += [self._row("**all**", "all", str(level), difficulty=level) for level in LEVELS]
        lines.append(self._row("**all**", "all", ""))
        return "\n".join(lines)

    def summary(self) -> str:
        """One line a model: total share with its interval."""
        return "\n".join(_total_line(model, self.split) for model in self.models)

    def _row(self, *cells: str, **of: Any) -> str:
        shares = [f"{100 * model.share(**of).value:.0f}" for model in self.models]
        return "| " + " | ".join((*cells, *shares)) + " |"


def evaluate(
    models_dir: Path | dict[str, Answer],
    n: int,
    seed: int,
    split: Split = "unseen",
    models: Sequence[str] = ("small", "large"),
) -> LabReport:
    """Send `n` balanced queries to each model and grade the answers.

    `models_dir` is a folder of Hugging Face model folders (read with transformers, greedy, in batches; needs torch),
    or for each name a function that answers prompts. Raises FileNotFoundError for a missing model folder.
    """
    items = sample(n, seed, split)
    if isinstance(models_dir, dict):
        reports = [_report(name, None, items, answer) for name, answer in models_dir.items()]
    else:
        reports = []
        for name in models:
            answer, parameters = greedy(models_dir / name)
            reports.append(_report(name, parameters, items, answer))
    return LabReport(split, seed, tuple(reports))


def load_model(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a lab folder. Raises FileNotFoundError for a folder without weights."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no model: build it with `jethro lab build`")
    from transformers import AutoModelForCausalLM, AutoTokenizer  # heavy, and only needed here

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def model_inputs(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Prompts, each a single user message, as one batch of tensors."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )


def greedy(folder: Path, rows: int = 128, max_new_tokens: int = 40) -> tuple[Answer, int]:
    """An answer function over a model folder, greedy and batched, and the number of parameters."""
    model, tokenizer = load_model(folder)
    return greedy_answer(model, tokenizer, rows, max_new_tokens), int(model.num_parameters())


def greedy_answer(model: Any, tokenizer: Any, rows: int = 128, max_new_tokens: int = 40) -> Answer:
    """An answer function over a loaded model, greedy and batched."""

    def answer(prompts: Sequence[str]) -> list[str]:
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), rows):
            picked = order[start : start + rows]
            inputs = model_inputs(tokenizer, [prompts[index] for index in picked])
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
            width = inputs["input_ids"].shape[1]
            decoded = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            for index, text in zip(picked, decoded, strict=True):
                texts[index] = text
        return texts

    return answer


def _report(name: str, parameters: int | None, items: Sequence[Item], answer: Answer) -> ModelReport:
    answers = tuple(answer([item.prompt for item in items]))
    right = tuple(TASKS[item.task].grade(item, text) == 1.0 for item, text in zip(items, answers, strict=True))
    return ModelReport(name, parameters, tuple(items), answers, right)


def _total_line(model: ModelReport, split: Split) -> str:
    share = model.share()
    low, high = share.interval
    size = f", {model.parameters:,} parameters" if model.parameters is not None else ""
    return (
        f"{model.name}: {100 * share.value:.1f} % exact of {share.total} {split} queries "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}){size}"
    )
