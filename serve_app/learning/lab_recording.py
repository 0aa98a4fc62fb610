"""Recorded answers of the lab's models with log-probabilities: what the lab's cascades are fitted and measured on.

In the form that `cascade.recorded` reads, in batches and without an endpoint. As in served answers the end token
counts in usage and cost but is no token of the answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from serve_app.lab.tasks import Item
from serve_app.lab.tasks.base import grade
from serve_app.learning.lab_answers import load_model, usd_per_million
from serve_app.learning.lab_queries import Half, unseen_queries

Report = Callable[[str], None]
_ROWS = 64
_MAX_NEW_TOKENS = 40
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
        others = _sampled(model, tokenizer, inputs, samples, plan) if samples else [()] * len(picked)
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


def _sampled(model: Any, tokenizer: Any, inputs: Any, samples: int, plan: LabPlan) -> list[tuple[str, ...]]:
    """Further answers to each prompt, drawn by the plan's seed."""
    import torch

    how = {"do_sample": True, "temperature": plan.temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed + inputs["input_ids"].numel())
        out = model.generate(**inputs, **how, max_new_tokens=_MAX_NEW_TOKENS, num_return_sequences=samples)
    texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [tuple(texts[at : at + samples]) for at in range(0, len(texts), samples)]
