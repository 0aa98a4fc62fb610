"""Next tokens from logits, for all rows of a batch at once.

What each row needs is worked out when the rows change (`SamplingPlan`), not at every step; a batch of greedy rows costs
one argmax. Sampling is by inverse transform: one uniform number per row, drawn from the row's own generator, so that
a seed means the same tokens alone and among others. Nucleus: Holtzman et al., The Curious Case of Neural Text
Degeneration, section 3.1. Log-probabilities are the model's own, before temperature, nucleus, penalties and grammars.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from serve_app.engines.transformers.guided.guide import Guide
from serve_app.engines.transformers.sequence import Likely, Sequence

GREEDY_BELOW = 1e-5
"""Temperatures below mean greedy: dividing logits by less overflows float32."""


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Row numbers by what they need. `plain` and `nucleus` rows are drawn, all others are greedy; `guided` ones have a
    grammar.
    """

    sequences: tuple[Sequence, ...]
    penalised: tuple[int, ...]
    plain: tuple[int, ...]
    nucleus: tuple[int, ...]
    logprobs: tuple[int, ...]
    guided: tuple[int, ...]
    temperature: Tensor
    top_p: Tensor

    @classmethod
    def of(cls, sequences: Rows[Sequence], device: torch.device) -> Self:
        """The plan of a batch whose row i is `sequences[i]`."""
        rows = [(i, s.sampling) for i, s in enumerate(sequences)]
        drawn = [(i, s) for i, s in rows if s.temperature >= GREEDY_BELOW]
        return cls(
            sequences=tuple(sequences),
            penalised=tuple(i for i, s in enumerate(sequences) if s.counts is not None),
            plain=tuple(i for i, s in drawn if s.top_p >= 1),
            nucleus=tuple(i for i, s in drawn if s.top_p < 1),
            logprobs=tuple(i for i, s in rows if s.logprobs),
            guided=tuple(i for i, s in enumerate(sequences) if s.guide is not None),
            temperature=torch.tensor([s.temperature for _, s in rows], device=device)[:, None],
            top_p=torch.tensor([s.top_p for _, s in rows], device=device)[:, None],
        )


def sample(logits: Tensor, plan: SamplingPlan) -> tuple[Tensor, dict[int, Likely]]:
    """Token ids [rows] from float logits [rows, vocabulary], and log-probabilities of the rows that want them."""
    scores = _penalise(logits, plan) if plan.penalised else logits
    guides = [guide for i in plan.guided if (guide := plan.sequences[i].guide) is not None]
    if guides:
        owned = bool(plan.penalised) or not plan.logprobs
        scores = _restricted(scores, plan.guided, guides, in_place=owned)
    tokens = scores.argmax(-1)
    for rows, draw in ((plan.plain, _draw_plain), (plan.nucleus, _draw_nucleus)):
        if rows:
            index = torch.tensor(rows, device=logits.device)
            uniform = torch.tensor([plan.sequences[i].rng.random() for i in rows], device=logits.device)[:, None]
            probabilities = (scores[index].float() / plan.temperature[index]).softmax(-1)
            tokens[index] = draw(probabilities, uniform, plan.top_p[index])
    if guides:
        _choose(tokens, plan.guided, guides, [plan.sequences[i].left for i in plan.guided])
    return tokens, _likely(logits, tokens, plan) if plan.logprobs else {}


def _restricted(scores: Tensor, rows: Rows[int], guides: Rows[Guide], *, in_place: bool) -> Tensor:
    """Scores [all rows, vocabulary] where tokens that a row's grammar forbids have minus infinity.

    A row whose grammar allows no token of the model's stays as it is: `Guide.choose` writes what must come.
    """
    words = np.zeros((len(rows), guides[0].words), dtype=np.int32)
    address, row_bytes = words.ctypes.data, words.strides[0]
    for i, guide in enumerate(guides):
        guide.fill(address + i * row_bytes, row_bytes)
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    size, width = guides[0].size, scores.shape[-1]
    own = bits[:, :size].any(axis=1)
    for i in np.flatnonzero(~own).tolist():
        guides[i].force(bits[i])
    held = np.flatnonzero(own).tolist()
    if not held:
        return scores
    allowed = np.zeros((len(held), width), dtype=np.uint8)
    allowed[:, : min(size, width)] = bits[held, : min(size, width)]
    forbidden = torch.from_numpy(allowed == 0).to(scores.device)
    index = torch.tensor([rows[i] for i in held], device=scores.device)
    scores = scores if in_place else scores.clone()
    scores[index] = scores[index].masked_fill(forbidden, -torch.inf)
    return scores


def _choose(tokens: Tensor, rows: Rows[int], guides: Rows[Guide], left: Rows[int]) -> None:
    """Puts into `tokens` [all rows] what each row's guide makes of its sampled token; `left` as in `Guide.choose`."""
    index = torch.tensor(rows, device=tokens.device)
    sampled = tokens[index].tolist()
    taken = [guide.choose(token, most) for guide, token, most in zip(guides, sampled, left, strict=True)]
    if taken != sampled:
        tokens[index] = torch.tensor(taken, device=tokens.device)


def _penalise(logits: Tensor, plan: SamplingPlan) -> Tensor:
    """OpenAI's penalties: presence once, frequency for every time the choice has said the token."""
    scores = logits.clone()
    for row in plan.penalised:
        sequence = plan.sequences[row]
        if not sequence.counts:
            continue
        ids = torch.tensor(list(sequence.counts), device=logits.device)
        counts = torch.tensor(list(sequence.counts.values()), device=logits.device, dtype=scores.dtype)
        penalty = sequence.sampling.frequency_penalty * counts + sequence.sampling.presence_penalty
        scores[row, ids] -= penalty
    return scores


def _draw_plain(probabilities: Tensor, uniform: Tensor, top_p: Tensor) -> Tensor:
    del top_p
    return _inverse(probabilities.cumsum(-1), uniform)


def _draw_nucleus(probabilities: Tensor, uniform: Tensor, top_p: Tensor) -> Tensor:
    """Draws among the fewest most likely tokens whose mass reaches top_p; always at least one."""
    ordered, ids = probabilities.sort(stable=True, dim=-1, descending=True)
    mass = ordered.cumsum(-1)
    kept = ordered.masked_fill(mass - ordered >= top_p, 0.0)
    kept[:, 0] = ordered[:, 0]
    return ids.gather(-1, _inverse(kept.cumsum(-1), uniform)[:, None])[:, 0]


def _inverse(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """The first position whose cumulative mass is above `uniform` of the whole; never one without mass, although a
    uniform number just below 1 becomes 1 in float32.
    """
    whole = cumulative[:, -1:]
    target = torch.minimum(uniform * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    position: Tensor = (cumulative <= target).sum(-1)
    return position.clamp_(max=cumulative.shape[-1] - 1)


def _likely(logits: Tensor, tokens: Tensor, plan: SamplingPlan) -> dict[int, Likely]:
    index = torch.tensor(plan.logprobs, device=logits.device)
    logprobs = logits[index].float().log_softmax(-1)
    own = logprobs.gather(-1, tokens[index][:, None])[:, 0].tolist()
    most = max(plan.sequences[row].sampling.top_logprobs for row in plan.logprobs)
    top = logprobs.topk(min(most, logprobs.shape[-1]), -1)
    values, ids = top.values.tolist(), top.indices.tolist()
    found = {}
    for at, row in enumerate(plan.logprobs):
        count = plan.sequences[row].sampling.top_logprobs
        found[row] = Likely(own[at], tuple(zip(ids[at][:count], values[at][:count], strict=True)))
    return found
