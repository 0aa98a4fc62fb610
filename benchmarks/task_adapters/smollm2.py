"""SmolLM2-135M-Instruct on ISEAR, with a LoRA adapter trained on 2,000 rows and without.

The base model is measured as well as a simple prompt allows: several prompts, by choice over the labels'
log-probabilities, by the same with the labels' mean log-probabilities subtracted (Zhao et al. 2021, calibrated here on
texts of the task), and by what it writes freely. Prompt and method are chosen on rows of their own, and what is best
there is what the adapter is compared with: the gain is over the better of plain choice and free answer. Calibration
uses texts of the task, as training does, and is reported next to it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.task_adapters import isear
from benchmarks.task_adapters.choice import first_label, free_answers, label_scores
from benchmarks.task_adapters.isear import LABELS, Report
from serve_app.adapters.base_model import BaseModel
from serve_app.adapters.files import ABOUT
from serve_app.arrays import wilson
from serve_app.files import write_whole
from serve_app.tuning.bases import TuningBase, load_base
from serve_app.tuning.lora import LoraShape
from serve_app.tuning.rows import read_rows
from serve_app.tuning.training import TuningRecipe, train_adapter

NAME = "smollm2-135m-instruct"
TRAIN, CHOOSE, MEASURE = 2000, 70, 500
"""Rows."""
RECIPE = TuningRecipe(LoraShape(rank=16), epochs=1, rows=8, held_out_of=20, learning_rate=7e-4)
GAIN = 0.20
"""What the adapter is held to: so many more right answers."""
_CHOICES = f"{', '.join(LABELS[:-1])} or {LABELS[-1]}"
CHOICE, CALIBRATED, FREE = "choice", "calibrated choice", "free answer"


@dataclass(frozen=True, slots=True)
class Prompt:
    """How a text is put to the model: a system prompt, the user's turn, and how the answer is made to begin."""

    system: str | None
    user: str = "{text}"
    begin: str = ""

    def write(self, tokenizer: Any, text: str) -> str:
        """The prompt through the model's chat template."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        turns.append({"role": "user", "content": self.user.replace("{text}", text)})
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)) + self.begin

    @property
    def labels(self) -> list[str]:
        """The labels as they continue it."""
        return [f" {label}" if self.begin else label for label in LABELS]


PROMPTS = {
    "instruction first": Prompt(f"Name the emotion of the text in one word: {_CHOICES}."),
    "question last": Prompt(None, f"{{text}}\n\nWhich emotion is this: {_CHOICES}? Answer with one word."),
    "answer begun": Prompt(None, f"How did the writer feel: {_CHOICES}?\n\n{{text}}", "The writer felt"),
    "as trained": Prompt(isear.SYSTEM),
}
"""Prompts of the base model; the adapter has the last."""


def measure(base: Path, data: Path, work: Path, seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Train the adapter in `work` unless it is there, and measure both models on the same unseen rows."""
    parts = isear.read(data, TRAIN, CHOOSE, MEASURE, seed)
    adapter = trained(base, parts.train, work, report)
    import peft

    plain = without_adapter(base, parts, work, report)
    found = load_base(str(base), NAME, "cpu")
    model = peft.PeftModel.from_pretrained(found.model, adapter).eval()
    ways = {CHOICE: _by_choice, FREE: _freely}
    fine = [_figures("as trained", way, by(model, found, "as trained", parts.measure)) for way, by in ways.items()]
    for row in fine:
        report(f"with the adapter, {row['method']}: {100 * row['accuracy']:.1f} %")
    note = json.loads((adapter / ABOUT).read_text("utf-8"))
    of = {row["method"]: float(row["accuracy"]) for row in plain}
    gain = fine[0]["accuracy"] - max(of[CHOICE], of[FREE])
    return {
        "model": NAME,
        "seed": seed,
        "measured": len(parts.measure),
        "chosen_on": len(parts.choose),
        "base": plain,
        "adapted": fine,
        "gain": gain,
        "gain_over_calibrated": fine[0]["accuracy"] - of[CALIBRATED],
        "training": {"rank": note["rank"], "epochs": RECIPE.epochs, **note["metrics"]},
        "missed": [] if gain >= GAIN else [f"{NAME}: the adapter adds {100 * gain:.1f} points, not {100 * GAIN:.0f}"],
    }


def trained(base: Path, rows: Sequence[Report], work: Path, report: Callable[[str], None]) -> Path:
    """The adapter's folder in `work`; a killed run resumes."""
    out = work / "isear"
    if not (out / ABOUT).exists():
        work.mkdir(parents=True, exist_ok=True)
        isear.write_rows(rows, work / "isear.jsonl")
        model = load_base(str(base), NAME, "cpu")
        learned = read_rows([work / "isear.jsonl"])
        train_adapter(model, learned, RECIPE, ("isear", "emotion", "Apache-2.0"), out, report)
    return out


def without_adapter(
    base: Path, parts: isear.Reports, work: Path, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Figures of the base model by each method, kept in `work` for a run that was killed afterwards."""
    about = {"base": BaseModel(str(base), base).sha256, "prompts": repr(PROMPTS), "rows": rows_digest(parts)}
    kept = work / "base.json"
    if kept.exists() and (before := json.loads(kept.read_text("utf-8")))["about"] == about:
        return list(before["figures"])
    figures = _best(load_base(str(base), NAME, "cpu"), parts, report)
    work.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps({"about": about, "figures": figures}).encode())
    return figures


def rows_digest(parts: isear.Reports) -> str:
    """Names the rows to choose on and to measure with."""
    return hashlib.sha256(repr([list(parts.choose), list(parts.measure)]).encode()).hexdigest()


def _best(base: TuningBase, parts: isear.Reports, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Of each method the figures with the prompt that is best for it on the rows to choose on."""
    shares: dict[str, dict[str, float]] = {CHOICE: {}, CALIBRATED: {}, FREE: {}}
    means = {}
    gold = _gold(parts.choose)
    for name in PROMPTS:
        scores = _scores(base.model, base, name, parts.choose)
        means[name] = scores.mean(0)
        shares[CHOICE][name] = float((scores.argmax(1) == gold).mean())
        shares[CALIBRATED][name] = float(((scores - means[name]).argmax(1) == gold).mean())
        shares[FREE][name] = float(_freely(base.model, base, name, parts.choose).mean())
        report(f"{name}: " + ", ".join(f"{way} {100 * by[name]:.0f} %" for way, by in shares.items()))
    found = []
    scored: dict[str, Any] = {}
    for way, by_prompt in shares.items():
        name = max(by_prompt, key=lambda one: by_prompt[one])
        if way == FREE:
            right = _freely(base.model, base, name, parts.measure)
        else:
            if name not in scored:
                scored[name] = _scores(base.model, base, name, parts.measure)
            offset = means[name] if way == CALIBRATED else 0.0
            right = (scored[name] - offset).argmax(1) == _gold(parts.measure)
        found.append(_figures(name, way, right) | {"on_rows_to_choose": by_prompt})
        report(f"without the adapter, {way}, {name}: {100 * found[-1]['accuracy']:.1f} %")
    return found


def _scores(model: Any, base: TuningBase, prompt: str, reports: Sequence[Report]) -> Any:
    how = PROMPTS[prompt]
    return label_scores(model, base.tokenizer, [how.write(base.tokenizer, r.text) for r in reports], how.labels)


def _by_choice(model: Any, base: TuningBase, prompt: str, reports: Sequence[Report]) -> Any:
    return _scores(model, base, prompt, reports).argmax(1) == _gold(reports)


def _freely(model: Any, base: TuningBase, prompt: str, reports: Sequence[Report]) -> Any:
    texts = free_answers(model, base.tokenizer, [PROMPTS[prompt].write(base.tokenizer, r.text) for r in reports])
    return np.array([first_label(text, LABELS) for text in texts]) == _gold(reports)


def _gold(reports: Sequence[Report]) -> Any:
    return np.array([LABELS.index(report.emotion) for report in reports])


def _figures(prompt: str, method: str, right: Any) -> dict[str, Any]:
    n = len(right)
    return {
        "prompt": prompt,
        "method": method,
        "accuracy": float(right.mean()),
        "accuracy_95": list(wilson(int(right.sum()), n)),
    }
