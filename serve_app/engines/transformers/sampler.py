"""Next tokens from logits, for all rows of a batch at once.

What each row needs is worked out when the rows change (`SamplingPlan`), not at every step; a batch of greedy rows costs
one argmax. Sampling is by inverse transform: one uniform number per row, drawn from the row's own generator, so that
a seed means the same tokens alone and among others. Nucleus: Holtzman et al., The Curious Case of Neural Text
Degeneration, section 3.1. Log-probabilities are the model's own, before temperature, nucleus, grammars, and whatever
`shaping` does.

A grammar's mask of a large vocabulary costs more than a draw, so a row with few allowed tokens is drawn among these.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.engines.transformers.guided.guide import Guide
from serve_app.engines.transformers.sequence import Likely, Sequence
from serve_app.engines.transformers.shaping import Narrowing, Shaping

GREEDY_BELOW = 1e-5
"""Temperatures below mean greedy: dividing logits by less overflows float32."""


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Row numbers by what they need. `plain` and `nucleus` rows are drawn, all others are greedy; `guided` ones have a
    grammar. `shaping` and `narrowing` are there for rows that change scores or probabilities.
    """

    sequences: tuple[Sequence, ...]
    plain: frozenset[int]
    nucleus: frozenset[int]
    logprobs: tuple[int, ...]
    guided: tuple[int, ...]
    temperature: Tensor
    top_p: Tensor
    shaping: Shaping | None
    narrowing: Narrowing | None

    @classmethod
    def of(cls, sequences: Rows[Sequence], device: torch.device) -> Self:
        """The plan of a batch whose row i is `sequences[i]`."""
        rows = [(i, s.sampling) for i, s in enumerate(sequences)]
        drawn = [(i, s.sampling) for i, s in enumerate(sequences) if _is_drawn(s)]
        return cls(
            sequences=tuple(sequences),
            plain=frozenset(i for i, s in drawn if s.top_p >= 1),
            nucleus=frozenset(i for i, s in drawn if s.top_p < 1),
            logprobs=tuple(i for i, s in rows if s.logprobs),
            guided=tuple(i for i, s in enumerate(sequences) if s.guide is not None),
            temperature=torch.tensor([s.temperature for _, s in rows], device=device)[:, None],
            top_p=torch.tensor([s.top_p for _, s in rows], device=device)[:, None],
            shaping=Shaping.of(sequences, device),
            narrowing=Narrowing.of(sequences, device),
        )


def _is_drawn(sequence: Sequence) -> bool:
    return sequence.sampling.temperature >= GREEDY_BELOW and sequence.request.further.top_k != 1


def sample(logits: Tensor, plan: SamplingPlan) -> tuple[Tensor, dict[int, Likely]]:
    """Token ids [rows] from float logits [rows, vocabulary], and log-probabilities of the rows that want them."""
    shaping = plan.shaping
    scores = logits if shaping is None else shaping.apply(logits)
    if plan.guided:
        tokens = _guided(scores, plan, in_place=shaping is not None or not plan.logprobs)
    else:
        tokens = _columns(scores, range(scores.shape[0]), plan)
    if shaping is not None:
        shaping.take(tokens)
    return tokens, _likely(logits, tokens, plan) if plan.logprobs else {}


def _columns(scores: Tensor, rows: Rows[int], plan: SamplingPlan) -> Tensor:
    """A column of `scores` [len(rows), any width] for each of the batch's rows: the best, or a drawn one."""
    drawn = sum(row in plan.plain or row in plan.nucleus for row in rows)
    columns = scores.argmax(-1) if drawn < len(rows) else None
    for chosen, draw in ((plan.plain, _draw_plain), (plan.nucleus, _draw_nucleus)):
        places = [at for at, row in enumerate(rows) if row in chosen]
        if not places:
            continue
        of_batch = torch.tensor([rows[at] for at in places], device=scores.device)
        uniform = torch.tensor([plan.sequences[rows[at]].rng.random() for at in places], device=scores.device)[:, None]
        index = None if len(places) == len(rows) else torch.tensor(places, device=scores.device)
        some = scores if index is None else scores[index]
        probabilities = (some.float() / plan.temperature[of_batch]).softmax(-1)
        if plan.narrowing is not None:
            probabilities = plan.narrowing.apply(probabilities, [rows[at] for at in places])
        found = draw(probabilities, uniform, plan.top_p[of_batch])
        if index is None:
            return found
        columns = torch.zeros(len(rows), dtype=torch.long, device=scores.device) if columns is None else columns
        columns[index] = found
    assert columns is not None
    return columns


FEW = 128
"""Where a grammar allows no more tokens than these of a large vocabulary, as at most places of a JSON text, the others
are not looked at.
"""


def _guided(scores: Tensor, plan: SamplingPlan, *, in_place: bool) -> Tensor:
    """Token ids [rows] that follow the rows' grammars. Overwrites `scores` only if `in_place`.

    A row whose grammar allows no token of the model's gets none of them: `Guide.choose` writes what must come.
    """
    guides = [guide for row in plan.guided if (guide := plan.sequences[row].guide) is not None]
    width = scores.shape[-1]
    allowed = _allowed(guides, width)
    if plan.shaping is not None:
        _hold(allowed, [plan.sequences[row].held for row in plan.guided])
    if width > 8 * FEW:
        tokens = _by_counts(scores, plan, allowed, in_place=in_place)
    else:
        own = scores if in_place else scores.clone()
        held = np.flatnonzero(allowed.any(axis=1)).tolist()
        _forbid(own, [plan.guided[at] for at in held], _forbidden(allowed[held], own))
        tokens = _columns(own, range(own.shape[0]), plan)
    _choose(tokens, plan.guided, guides, [plan.sequences[row].left for row in plan.guided])
    return tokens


def _by_counts(scores: Tensor, plan: SamplingPlan, allowed: NDArray[np.uint32], *, in_place: bool) -> Tensor:
    """Token ids [rows]: of few allowed tokens, among these; of many, or of any, from the whole vocabulary."""
    counts = np.bitwise_count(allowed).sum(axis=1, dtype=np.int64)
    few = np.flatnonzero((counts > 0) & (counts <= FEW)).tolist()
    many = np.flatnonzero(counts > FEW).tolist()
    tokens = torch.zeros(scores.shape[0], dtype=torch.long, device=scores.device)
    if few:
        rows = [plan.guided[at] for at in few]
        ids, behind = _ids(allowed[few], counts[few])
        index, choice = torch.tensor(rows, device=scores.device), torch.from_numpy(ids).to(scores.device)
        own = scores[index[:, None], choice].masked_fill_(torch.from_numpy(behind).to(scores.device), -torch.inf)
        tokens[index] = choice.gather(-1, _columns(own, rows, plan)[:, None])[:, 0]
    rows = sorted({*range(scores.shape[0])} - {*plan.guided} | {plan.guided[at] for at in many})
    if rows:
        whole = len(rows) == scores.shape[0] and (in_place or not many)
        index = torch.tensor(rows, device=scores.device)
        own = scores if whole else scores[index]
        if many:
            places = {row: at for at, row in enumerate(rows)}
            _forbid(own, [places[plan.guided[at]] for at in many], _forbidden(allowed[many], own))
        tokens[index] = _columns(own, rows, plan)
    return tokens


def _allowed(guides: Rows[Guide], width: int) -> NDArray[np.uint32]:
    """Bit masks [guides, words] of the model's own tokens that may come next, of as many bits as there are scores. A
    guide without any has to force one of the others.
    """
    words = max(guides[0].words, -(-width // 32))
    masks = np.zeros((len(guides), words), dtype=np.uint32)
    address, row_bytes = masks.ctypes.data, masks.strides[0]
    for at, guide in enumerate(guides):
        guide.fill(address + at * row_bytes, 4 * guide.words)
    size = min(guides[0].size, width)
    full, bits = divmod(size, 32)
    own = masks.copy()
    own[:, full + (bits > 0) :] = 0
    if bits:
        own[:, full] &= np.uint32((1 << bits) - 1)
    for at in np.flatnonzero(~own.any(axis=1)).tolist():
        guides[at].force(np.unpackbits(masks[at].view(np.uint8), bitorder="little"))
    return own


def _hold(allowed: NDArray[np.uint32], held: Rows[frozenset[int]]) -> None:
    """Takes out in place what each row holds back, unless its grammar allows nothing else: a form's end comes first."""
    for at, ids in enumerate(held):
        rest = allowed[at].copy() if ids else allowed[at]
        for token in ids:
            if token < 32 * len(rest):
                rest[token >> 5] &= ~np.uint32(1 << (token & 31))
        if ids and rest.any():
            allowed[at] = rest


def _ids(allowed: NDArray[np.uint32], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The set bits of each row [rows, most], in order, and which places are behind a row's last."""
    row, word = np.nonzero(allowed)
    bits = np.unpackbits(allowed[row, word].view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    at, bit = np.nonzero(bits)
    place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    behind = np.arange(counts.max()) >= counts[:, None]
    ids = np.zeros(behind.shape, dtype=np.int64)
    ids[row[at], place] = 32 * word[at] + bit
    return ids, behind


def _forbidden(allowed: NDArray[np.uint32], scores: Tensor) -> Tensor:
    """What these masks forbid, of as many columns as `scores` has."""
    bits = np.unpackbits((~allowed).view(np.uint8), axis=1, bitorder="little").view(np.bool_)
    return torch.from_numpy(bits[:, : scores.shape[-1]]).to(scores.device)


def _forbid(scores: Tensor, rows: Rows[int], forbidden: Tensor) -> None:
    """Minus infinity in place for what is forbidden to these rows of `scores`."""
    if len(rows) == scores.shape[0]:
        scores.masked_fill_(forbidden, -torch.inf)
        return
    for row, mask in zip(rows, forbidden, strict=True):
        scores[row].masked_fill_(mask, -torch.inf)


def _choose(tokens: Tensor, rows: Rows[int], guides: Rows[Guide], left: Rows[int]) -> None:
    """Puts into `tokens` [all rows] what each row's guide makes of its sampled token; `left` as in `Guide.choose`."""
    index = torch.tensor(rows, device=tokens.device)
    sampled = tokens[index].tolist()
    taken = [guide.choose(token, most) for guide, token, most in zip(guides, sampled, left, strict=True)]
    if taken != sampled:
        tokens[index] = torch.tensor(taken, device=tokens.device)


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
