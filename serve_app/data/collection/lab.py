"""Answers of the lab's models to queries unseen by them, recorded in batches without an endpoint, graded.

Routers and cascades must learn from queries that the models were not trained on, since those are what they will meet:
small task families are learned by heart, and answers to trained queries flatter both models. One half of the unseen
queries is for learning, the other for measuring; the half is a property of the query's text, so that no run can mix
them up. As in served answers the end token counts in usage and cost but is no token of the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, Literal

import numpy as np

from serve_app.config import load
from serve_app.data.answers import EXTRA_TEMPERATURE
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import ConfigError
from serve_app.lab.evaluate import load_model, model_inputs
from serve_app.lab.sample import draw, normalise
from serve_app.lab.tasks import CELLS, Item
from serve_app.lab.tasks.base import grade
from serve_app.types import Message, Query, TokenLogprob

Half = Literal["learn", "measure"]
Report = Callable[[str], None]
MODELS = ("tiny", "small", "large")
_DRAWS = 64
"""Unseen queries drawn for one of the requested half; a cell that yields none has all its few queries in the other."""
_TINY_USD_PER_MILLION = 0.02
"""The lab prices small and large by parameter count; so is tiny, which is in no profile."""
_ROWS = 64
"""Queries answered at once; those of like length are together."""
_MAX_NEW_TOKENS = 40
_DIGITS = 5
_TEMPLATE_TOKENS = 3
"""A lab token is a character; the template adds three to a prompt, the end token one to an answer."""


def half_of(prompt: str) -> Half:
    """The half that an unseen query belongs to, by a stable hash of its normalised text."""
    digest = blake2b(normalise(prompt).encode(), digest_size=8, person=b"jethro-router").digest()
    return "learn" if digest[0] % 2 == 0 else "measure"


def unseen_queries(n: int, seed: int, half: Half, without: frozenset[str] = frozenset()) -> list[Item]:
    """`n` unseen items of one half, as even over all (task, size) as the half allows, in random order.

    The same arguments return the same items; small families repeat queries. `without` are prompts to leave out, those
    that a router learned from for instance: cells that lose some repeat what they have, those that lose all are left
    out, so that there may be fewer than `n`.
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
    return _replaced(items[:n], unseen_queries(2 * n, seed + 1, half), without) if without else items[:n]


def _replaced(drawn: Sequence[Item], more: Sequence[Item], without: frozenset[str]) -> list[Item]:
    """As many items of each cell as were drawn, out of all that are not left out, in turns."""
    left: dict[tuple[str, str], list[Item]] = {}
    for item in {i.prompt: i for i in (*drawn, *more) if i.prompt not in without}.values():
        left.setdefault((item.task, item.size), []).append(item)
    taken = dict.fromkeys(left, 0)
    found = []
    for item in drawn:
        cell = (item.task, item.size)
        if cell in left:
            found.append(left[cell][taken[cell] % len(left[cell])])
            taken[cell] += 1
    return found


@dataclass(frozen=True, slots=True)
class LabPlan:
    """`n` queries of a half, drawn by `seed`; of each model `samples` answers a query at `temperature`.

    At temperature 0 the one answer comes with `top_logprobs` alternatives of each token, if more than none. Of every
    model but the last also `extra_samples`, for agreement. `without`: see `unseen_queries`.
    """

    n: int
    half: Half
    seed: int = 0
    models: tuple[str, ...] = ("small", "large")
    samples: int = 1
    temperature: float = 0.0
    top_logprobs: int = 0
    extra_samples: int = 0
    without: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise ConfigError(f"{self.samples} samples at temperature 0 are all the same: raise it, or take one sample")
        if self.temperature > 0 and self.top_logprobs:
            raise ConfigError("log-probabilities of the lab's models are recorded at temperature 0 alone: set it to 0")


def record_lab(models_dir: Path, plan: LabPlan, report: Report = print) -> Dataset:
    """The models' answers, a pool each, graded by exact match; even over task and size, in random order.

    Small families repeat queries; a query that is drawn again has the same answers again. Pools are named after the
    models: `dataset.pair("tiny", "large")` makes a pair of them. Raises FileNotFoundError for a folder without weights.
    """
    items = unseen_queries(plan.n, plan.seed, plan.half, plan.without)
    references = {item.prompt: item.answer for item in items}
    distinct = sorted(references)
    place = {prompt: row for row, prompt in enumerate(distinct)}
    rows = np.array([place[item.prompt] for item in items], dtype=np.int64)
    pools = {}
    for name in plan.models:
        started = perf_counter()
        extra = plan.extra_samples if name != plan.models[-1] else 0
        pool = _answers(models_dir / name, distinct, [references[p] for p in distinct], plan, extra, report)
        report(f"{name}: {100 * pool.quality[rows].mean():.1f} % exact, {perf_counter() - started:.0f} s")
        pools[name] = pool.take(rows)
    return Dataset(
        queries=tuple(Query((Message("user", item.prompt),)) for item in items),
        pools=pools,
        groups=tuple(f"{item.task}-{item.difficulty}" for item in items),
        about={
            "source": "lab",
            "split": f"unseen, {plan.half} half",
            "seed": plan.seed,
            "n": plan.n,
            "distinct": len(distinct),
            "temperature": plan.temperature,
            "metric": "exact_match",
        },
        references=tuple(item.answer for item in items),
        splits=(plan.half,) * len(items),
    )


def usd_per_million(name: str) -> float:
    """Price of a token, read or written (the lab charges both alike)."""
    pools = load("ensemble", env={}).pools
    return pools[name].price.input_usd_per_million if name in pools else _TINY_USD_PER_MILLION


def _answers(
    folder: Path, prompts: Sequence[str], references: Sequence[str], plan: LabPlan, extra: int, report: Report
) -> PoolAnswers:
    """One model's graded answers, and `extra` samples of each query; seeded by the plan."""
    import torch

    model, tokenizer = load_model(folder)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts: dict[int, tuple[str, ...]] = {}
    logprobs: dict[int, tuple[TokenLogprob, ...]] = {}
    extras: dict[int, tuple[str, ...]] = {}
    started = perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        for start in range(0, len(order), _ROWS):
            picked = order[start : start + _ROWS]
            inputs = model_inputs(tokenizer, [prompts[i] for i in picked])
            if plan.temperature:
                answers = _sampled(model, tokenizer, inputs, plan.samples, plan.temperature)
            else:
                answers, tokens = _greedy(model, tokenizer, inputs, plan.top_logprobs)
                logprobs |= zip(picked, tokens, strict=True)
            texts |= zip(picked, answers, strict=True)
            if extra:
                extras |= zip(picked, _sampled(model, tokenizer, inputs, extra, EXTRA_TEMPERATURE), strict=True)
            done = start + len(picked)
            if done * 10 // len(order) != start * 10 // len(order):
                rate = done / (perf_counter() - started)
                report(f"{folder.name}: {done:,} of {len(order):,} queries answered, {rate:.0f} a second")
    rows = range(len(prompts))
    pool = _graded(folder.name, prompts, references, [texts[i] for i in rows])
    if any(logprobs.values()):
        pool = replace(pool, logprobs=tuple(logprobs[i] for i in rows))
    if not extra:
        return pool
    price = usd_per_million(folder.name) / 1e6
    spent = [sum(len(prompts[i]) + _TEMPLATE_TOKENS + len(text) + 1 for text in extras[i]) * price for i in rows]
    return replace(pool, extra_samples=tuple(extras[i] for i in rows), extra_cost_usd=np.array(spent))


def _graded(
    name: str, prompts: Sequence[str], references: Sequence[str], texts: Sequence[tuple[str, ...]]
) -> PoolAnswers:
    quality = np.array([[grade(r, text) for text in row] for r, row in zip(references, texts, strict=True)])
    read = np.repeat(np.array([[len(p) + float(_TEMPLATE_TOKENS)] for p in prompts]), quality.shape[1], axis=1)
    written = np.array([[len(text) + 1.0 for text in row] for row in texts])
    cost = (read + written) * usd_per_million(name) / 1e6
    return PoolAnswers(f"jlab-{name}", tuple(texts), quality, cost, read, written)


def _greedy(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], top: int
) -> tuple[list[tuple[str, ...]], list[tuple[TokenLogprob, ...]]]:
    """The likeliest answer to each prompt, and with `top` its tokens with so many alternatives, without the end."""
    import torch

    out = model.generate(
        **inputs, do_sample=False, max_new_tokens=_MAX_NEW_TOKENS, return_dict_in_generate=True, output_logits=top > 0
    )
    said = out.sequences[:, inputs["input_ids"].shape[1] :]
    answers: list[tuple[str, ...]] = [(text,) for text in tokenizer.batch_decode(said, skip_special_tokens=True)]
    if not top:
        return answers, [()] * len(answers)
    logprobs = torch.stack(out.logits, 1).float().log_softmax(-1)
    own = logprobs.gather(-1, said[:, :, None])[:, :, 0].tolist()
    values, ids = (part.tolist() for part in logprobs.topk(top, -1))
    texts = [tokenizer.decode([i]) for i in range(logprobs.shape[-1])]
    end = model.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    rows = []
    for row, tokens in enumerate(said.tolist()):
        length = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
        rows.append(
            tuple(
                TokenLogprob(
                    texts[tokens[at]],
                    round(own[row][at], _DIGITS),
                    tuple((texts[i], round(v, _DIGITS)) for i, v in zip(ids[row][at], values[row][at], strict=True)),
                )
                for at in range(length)
            )
        )
    return answers, rows


def _sampled(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], samples: int, temperature: float
) -> list[tuple[str, ...]]:
    """Answers to each prompt from the model's own distribution (neither top-k nor top-p)."""
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    out = model.generate(**inputs, **how, max_new_tokens=_MAX_NEW_TOKENS, num_return_sequences=samples)
    texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [tuple(texts[at : at + samples]) for at in range(0, len(texts), samples)]
