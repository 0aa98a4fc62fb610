"""Sampled answers of the lab's models to unseen queries: the data that routers between lab models learn from.

Several answers a query at temperature 1, as Hybrid LLM's soft labels need them (arXiv 2404.14618, section 3.2).

Lab queries for routers: all unseen by the models, one half to learn from and the other to measure on.

A router must learn from queries that the models were not trained on, since those are what it will meet: small task
families are learned by heart, and answers to trained queries flatter both models. The half is a property of the
query's text, so that no run can mix them up.

Recorded answers of the lab's models with log-probabilities: what the lab's cascades are fitted and measured on.

In the form that `cascade.recorded` reads, in batches and without an endpoint. As in served answers the end token
counts in usage and cost but is no token of the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.config import load
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import ConfigError
from serve_app.lab.sample import draw, normalise
from serve_app.lab.tasks import CELLS, Item
from serve_app.lab.tasks.base import grade
from serve_app.types import Message, Query

Half = Literal["learn", "measure"]
_DRAWS = 64
"""Unseen queries drawn for one of the wanted half; a cell that gives none has all its few queries in the other."""


def half_of(prompt: str) -> Half:
    """The half that an unseen query belongs to, by a stable hash of its normalised text."""
    digest = blake2b(normalise(prompt).encode(), digest_size=8, person=b"jethro-router").digest()
    return "learn" if digest[0] % 2 == 0 else "measure"


def unseen_queries(n: int, seed: int, half: Half) -> list[Item]:
    """`n` unseen items of one half, as even over all (task, difficulty) as the half allows, in random order.

    The same arguments give the same items; small families repeat queries.
    """
    rng = Random(f"lab-router-{seed}-{half}")
    cells = list(CELLS)
    rng.shuffle(cells)
    items: list[Item] = []
    while len(items) < n and cells:
        for cell in tuple(cells):
            found = next(
                (i for i in (draw(rng, *cell, "unseen") for _ in range(_DRAWS)) if half_of(i.prompt) == half), None
            )
            if found is None:
                cells.remove(cell)
            else:
                items.append(found)
    rng.shuffle(items)
    return items[:n]


Report = Callable[[str], None]

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


_DIGITS = 5
_TEMPLATE_TOKENS = 3
"""A lab token is a character; the template adds three to a prompt, the end token one to an answer."""


@dataclass(frozen=True, slots=True)
class LabPlan:
    """`n` queries of a half, drawn by `seed`; each model answers once at temperature 0, with `top` alternatives.

    `samples` more answers at `temperature` of every model but the last, for agreement. `without`: texts left out,
    those that a router learned from for instance, whose prior would flatter them.
    """

    n: int
    half: Half
    seed: int = 0
    models: tuple[str, ...] = ("small", "large")
    top: int = 5
    samples: int = 0
    temperature: float = 0.7
    without: frozenset[str] = field(default=frozenset(), repr=False)


def lab_rows(models_dir: Path, plan: LabPlan, report: Report = print) -> list[dict[str, Any]]:
    """A row a query, graded; even over task and difficulty, in random order.

    A (task, difficulty) with too few queries repeats them, as `unseen_queries` does. Raises FileNotFoundError for a
    folder without weights.
    """
    items = even(plan)
    prompts = sorted({item.prompt for item in items})
    answers: dict[str, Mapping[str, dict[str, Any]]] = {}
    for name in plan.models:
        samples = plan.samples if name != plan.models[-1] else 0
        answers[name] = _answers(models_dir, name, prompts, plan, samples, report)
    return [
        {
            "i": i,
            "split": plan.half,
            "group": f"{item.task}-{item.difficulty}",
            "prompt": item.prompt,
            "reference": item.answer,
            "m": {m: {"ok": grade(item.answer, a[item.prompt]["ans"]), **a[item.prompt]} for m, a in answers.items()},
        }
        for i, item in enumerate(items)
    ]


def even(plan: LabPlan) -> list[Item]:
    """The plan's queries: with `without`, cells that lost some repeat what they have."""
    drawn = unseen_queries(plan.n, plan.seed, plan.half)
    if not plan.without:
        return drawn
    more = [*drawn, *unseen_queries(2 * plan.n, plan.seed + 1, plan.half)]
    left: dict[tuple[str, int], list[Item]] = {}
    for item in {item.prompt: item for item in more if item.prompt not in plan.without}.values():
        left.setdefault((item.task, item.difficulty), []).append(item)
    taken: dict[tuple[str, int], int] = dict.fromkeys(left, 0)
    found = []
    for item in drawn:
        cell = (item.task, item.difficulty)
        if cell in left:
            found.append(left[cell][taken[cell] % len(left[cell])])
            taken[cell] += 1
    return found


def _answers(
    models_dir: Path, name: str, prompts: Sequence[str], plan: LabPlan, samples: int, report: Report
) -> dict[str, dict[str, Any]]:
    """By prompt: a model's answer with its tokens, and its samples."""
    model, tokenizer = load_model(models_dir / name)
    started = perf_counter()
    order = sorted(prompts, key=len)
    price = usd_per_million(name) / 1e6
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(order), _ROWS):
        picked = order[start : start + _ROWS]
        inputs = _inputs(tokenizer, picked)
        answers = _greedy(model, tokenizer, inputs, plan.top)
        others = _further_samples(model, tokenizer, inputs, samples, plan) if samples else [()] * len(picked)
        for prompt, tokens, more in zip(picked, answers, others, strict=True):
            read, text = len(prompt) + _TEMPLATE_TOKENS, "".join(token[0] for token in tokens)
            answer = {
                "model": f"jlab-{name}",
                "cost": (read + len(tokens) + 1) * price,
                "tin": read,
                "tout": len(tokens) + 1,
                "ans": text,
            }
            found[prompt] = {**answer, "tokens": tokens}
            if more:
                found[prompt]["samples"] = more
                found[prompt]["extra_cost"] = sum(read + len(s) + 1 for s in more) * price
        if start // _ROWS % 20 == 0:
            report(f"{name}: {len(found):,} of {len(order):,} queries, {perf_counter() - started:.0f} s")
    return found


def _inputs(tokenizer: Any, prompts: Sequence[str]) -> Any:
    return tokenizer.apply_chat_template(
        [[{"role": "user", "content": p}] for p in prompts],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )


def _greedy(model: Any, tokenizer: Any, inputs: Any, top: int) -> list[list[list[Any]]]:
    """Of each prompt: its tokens as [text, log-prob, [[text, log-prob], ...]], the end token left out."""
    import torch

    out = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=_MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    said = out.sequences[:, inputs["input_ids"].shape[1] :]
    logprobs = torch.stack(out.logits, 1).float().log_softmax(-1)
    own = logprobs.gather(-1, said[:, :, None])[:, :, 0].tolist()
    best = logprobs.topk(top, -1)
    values, ids = best.values.tolist(), best.indices.tolist()
    texts = [tokenizer.decode([i]) for i in range(logprobs.shape[-1])]
    end = model.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    rows = []
    for row, tokens in enumerate(said.tolist()):
        length = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
        rows.append(
            [
                [
                    texts[tokens[at]],
                    round(own[row][at], _DIGITS),
                    [[texts[i], round(v, _DIGITS)] for i, v in zip(ids[row][at], values[row][at], strict=True)],
                ]
                for at in range(length)
            ]
        )
    return rows


def _further_samples(model: Any, tokenizer: Any, inputs: Any, samples: int, plan: LabPlan) -> list[tuple[str, ...]]:
    """Further answers to each prompt, drawn by the plan's seed."""
    import torch

    how = {"do_sample": True, "temperature": plan.temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed + inputs["input_ids"].numel())
        out = model.generate(**inputs, **how, max_new_tokens=_MAX_NEW_TOKENS, num_return_sequences=samples)
    texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [tuple(texts[at : at + samples]) for at in range(0, len(texts), samples)]
