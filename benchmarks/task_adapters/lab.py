"""The lab's small model with and without its task adapters, against the large one, on unseen queries of every size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.arrays import wilson
from serve_app.lab import models_dir
from serve_app.lab.evaluate import greedy_answer, load_model
from serve_app.lab.sample import sample
from serve_app.lab.tasks import TASKS, Item

SMALL_USD, LARGE_USD = 0.1, 1.0
"""US dollars per million tokens of the profile `lab`, prompt and answer alike."""
GAIN, ENOUGH = 0.20, 0.95
"""What an adapter is held to on its task: so many more exact answers, or so many exact ones."""
OF_LARGE, OF_COST = 0.97, 0.25
"""What small with adapters is held to over all these tasks: a share of large's quality, at a share of its cost."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers to some items: whether each is exact, and its cost in US dollars."""

    right: Sequence[bool]
    usd: Sequence[float]

    def figures(self) -> dict[str, Any]:
        """Share of exact answers with Wilson's 95 % interval, and the mean cost."""
        right, n = sum(self.right), len(self.right)
        return {"exact": right / n, "exact_95": list(wilson(right, n)), "usd_per_thousand": 1e3 * sum(self.usd) / n}


def measure(folder: Path, n: int, seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Of each task with an adapter in `folder` the three models' figures; and those of all tasks together.

    An adapter's parameters are paid like the model's own: a token of small with one costs as much more as it has more
    parameters, though a server that merges them would need no more work.
    """
    import peft

    large, tokens = load_model(models_dir() / "large")
    found = []
    for path in sorted(p.parent for p in folder.glob("*/adapter_config.json")):
        items = sample(n, seed, "unseen", (path.name,))
        small, _ = load_model(models_dir() / "small")
        alone = small.num_parameters()
        answers = {
            "small": _answers(small, tokens, items, SMALL_USD),
            "large": _answers(large, tokens, items, LARGE_USD),
        }
        adapted = peft.PeftModel.from_pretrained(small, folder / path.name).eval()
        added = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
        answers["adapted"] = _answers(adapted, tokens, items, SMALL_USD * (alone + added) / alone)
        row = {"task": path.name, "n": n, "adapter_parameters": added, "small_parameters": alone}
        row |= {"rank": adapted.peft_config["default"].r, "large_parameters": large.num_parameters()}
        row |= {name: one.figures() for name, one in answers.items()}
        report(f"{path.name}: small {_percent(row, 'small')}, with it {_percent(row, 'adapted')}, large "
               f"{_percent(row, 'large')}")  # fmt: skip
        found.append(row)
    return {"seed": seed, "tasks": found, "all": _together(found), "missed": missed(found)}


def _answers(model: Any, tokenizer: Any, items: Sequence[Item], usd_per_million: float) -> Answers:
    texts = greedy_answer(model, tokenizer)([item.prompt for item in items])
    right = [TASKS[item.task].grade(item, text) == 1.0 for item, text in zip(items, texts, strict=True)]
    usd = [
        _tokens(tokenizer, item.prompt, text) * usd_per_million / 1e6 for item, text in zip(items, texts, strict=True)
    ]
    return Answers(right, usd)


def _tokens(tokenizer: Any, prompt: str, answer: str) -> int:
    """Tokens of a query and its answer, with the one that ends it."""
    turns = [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return len(tokenizer.encode(before + answer, add_special_tokens=False)) + 1


def _together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the tasks, which have as many queries each."""
    mean: dict[str, dict[str, float]] = {
        name: {key: sum(row[name][key] for row in rows) / len(rows) for key in ("exact", "usd_per_thousand")}
        for name in ("small", "adapted", "large")
    }
    return {
        **mean,
        "quality_of_large": mean["adapted"]["exact"] / mean["large"]["exact"],
        "cost_of_large": mean["adapted"]["usd_per_thousand"] / mean["large"]["usd_per_thousand"],
    }


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the adapters are held to, and do not keep."""
    short = [
        f"{row['task']}: {_percent(row, 'small')} to {_percent(row, 'adapted')}"
        for row in rows
        if row["adapted"]["exact"] < min(ENOUGH, row["small"]["exact"] + GAIN)
    ]
    together = _together(rows)
    if together["quality_of_large"] < OF_LARGE:
        short.append(f"all tasks: {100 * together['quality_of_large']:.1f} % of large's quality")
    if together["cost_of_large"] > OF_COST:
        short.append(f"all tasks: {100 * together['cost_of_large']:.1f} % of large's cost")
    return short


def _percent(row: dict[str, Any], name: str) -> str:
    return f"{100 * row[name]['exact']:.1f} %"
