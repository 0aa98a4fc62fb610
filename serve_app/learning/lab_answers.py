"""Sampled answers of the lab's models to unseen queries: the data that routers between lab models learn from.

Several answers a query at temperature 1, as Hybrid LLM's soft labels need them (arXiv 2404.14618, section 3.2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.config import load
from serve_app.errors import ConfigError
from serve_app.learning.dataset import Dataset, PoolAnswers
from serve_app.learning.finetune import Report
from serve_app.learning.lab_queries import Half, unseen_queries
from serve_app.types import Message, Query

MODELS = ("tiny", "small", "large")
_TINY_USD_PER_MILLION = 0.03
"""The lab prices small and large by parameter count; so is tiny, which is in no profile."""
_ROWS = 64
"""Queries answered at once; those of like length stand together."""
_MAX_NEW_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Draw:
    """How answers are drawn: `samples` a query, at `temperature`; `seed` also draws the queries."""

    samples: int = 10
    temperature: float = 1.0
    seed: int = 0


def lab_answers(
    models_dir: Path,
    n: int,
    half: Half,
    draw: Draw = Draw(),
    models: Sequence[str] = MODELS,
    report: Report = print,
) -> Dataset:
    """Answers of each model (a pool each) to `n` unseen queries of a half, graded by exact match.

    Small families repeat queries; a query that is drawn again has the same answers again. Pools are named after the
    models: `dataset.pair("tiny", "large")` makes a pair of them. Raises FileNotFoundError for a folder without weights.
    """
    items = unseen_queries(n, draw.seed, half)
    prompts = [item.prompt for item in items]
    answers = {item.prompt: item.answer for item in items}
    distinct = sorted(answers)
    place = {prompt: row for row, prompt in enumerate(distinct)}
    rows = np.array([place[p] for p in prompts], dtype=np.int64)
    pools = {}
    for name in models:
        model, tokenizer = load_model(models_dir / name)
        started = perf_counter()
        texts = _sampled(model, tokenizer, distinct, draw, _Told(name, len(distinct), report))
        pool = _pool(name, distinct, texts, [answers[p] for p in distinct])
        report(f"{name}: {100 * pool.quality[rows].mean():.1f} % exact, {perf_counter() - started:.0f} s")
        pools[name] = pool.take(rows)
    about = {
        "source": "lab",
        "split": f"unseen, {half} half",
        "seed": draw.seed,
        "n": n,
        "distinct": len(distinct),
        "temperature": draw.temperature,
        "metric": "exact_match",
    }
    return Dataset(
        queries=tuple(Query((Message("user", prompt),)) for prompt in prompts),
        pools=pools,
        groups=tuple(f"{item.task}-{item.difficulty}" for item in items),
        about=about,
        references=tuple(item.answer for item in items),
    )


class _Told:
    """Reports a tenth of the way at a time."""

    def __init__(self, name: str, total: int, report: Report) -> None:
        self._name, self._total, self._report = name, total, report
        self._done, self._started = 0, perf_counter()

    def add(self, rows: int) -> None:
        before, self._done = self._done, self._done + rows
        if before * 10 // self._total != self._done * 10 // self._total:
            rate = self._done / (perf_counter() - self._started)
            self._report(f"{self._name}: {self._done:,} of {self._total:,} queries answered, {rate:.0f} a second")


def load_model(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a lab folder. Raises FileNotFoundError for a folder without weights."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no model: build it with `jethro lab build`")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def _sampled(model: Any, tokenizer: Any, prompts: Sequence[str], draw: Draw, told: _Told) -> list[tuple[str, ...]]:
    """`draw.samples` answers to each prompt, from the model's own distribution (neither top-k nor top-p)."""
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts: list[tuple[str, ...]] = [()] * len(prompts)
    how = {"do_sample": True, "temperature": draw.temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.seed)
        for start in range(0, len(order), _ROWS):
            picked = order[start : start + _ROWS]
            inputs = tokenizer.apply_chat_template(
                [[{"role": "user", "content": prompts[i]}] for i in picked],
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
            )
            out = model.generate(**inputs, **how, max_new_tokens=_MAX_NEW_TOKENS, num_return_sequences=draw.samples)
            decoded = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for row, i in enumerate(picked):
                texts[i] = tuple(decoded[row * draw.samples : (row + 1) * draw.samples])
            told.add(len(picked))
    return texts


def _pool(name: str, prompts: Sequence[str], texts: Sequence[tuple[str, ...]], answers: Sequence[str]) -> PoolAnswers:
    """Graded answers. A lab token is a character; the template adds three to a prompt, the end token one."""
    from serve_app.lab.tasks.base import grade

    quality = np.array([[grade(answer, text) for text in row] for answer, row in zip(answers, texts, strict=True)])
    read = np.repeat(np.array([[len(p) + 3.0] for p in prompts]), quality.shape[1], axis=1)
    written = np.array([[len(t) + 1.0 for t in row] for row in texts])
    cost = (read + written) * usd_per_million(name) / 1e6
    return PoolAnswers(f"jlab-{name}", tuple(texts), quality, cost, read, written)


def usd_per_million(name: str) -> float:
    """Price of a token, read or written (the lab charges both alike)."""
    pools = load("lab", env={}).pools
    return pools[name].price.input_usd_per_million if name in pools else _TINY_USD_PER_MILLION


def regraded(dataset: Dataset, grade: Callable[[str, str], float], metric: str) -> Dataset:
    """The same answers by another metric: `grade(reference, text)`. Raises ConfigError where a reference is missing."""
    if not dataset.references or any(reference is None for reference in dataset.references):
        raise ConfigError(f"{metric}: every query needs a reference to grade against; collect the dataset again")
    known: dict[tuple[str, str], float] = {}

    def quality(pool: PoolAnswers) -> NDArray[np.float64]:
        pairs = [(str(r), text) for r, row in zip(dataset.references, pool.texts, strict=True) for text in row]
        known.update({pair: grade(*pair) for pair in set(pairs) - known.keys()})
        return np.array([known[pair] for pair in pairs]).reshape(pool.quality.shape)

    pools = {name: replace(pool, quality=quality(pool)) for name, pool in dataset.pools.items()}
    return replace(dataset, pools=pools, about={**dataset.about, "metric": metric})
