"""What requests change of a model's scores before a token is taken, for the rows of a batch that ask for it.

In vLLM's order. Of the scores: tokens held back until `min_tokens`, `logit_bias`, repetition, frequency and presence
penalty; these hold for greedy rows too. Of the probabilities, after temperature: min_p, then top_k, then the nucleus.

Repetition penalty: Keskar et al., CTRL: A Conditional Transformer Language Model for Controllable Generation, section
4.1, with prompt and answer as what was said, and scores below 0 multiplied where others are divided. min_p: Nguyen et
al., Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs, section 3. top_k: Fan et al.,
Hierarchical Neural Story Generation, section 5.2.
"""

from collections.abc import Sequence as Rows
from typing import Self

import torch
from torch import Tensor

from serve_app.engines.transformers.sequence import Sequence


class Shaping:
    """Of a batch whose row i is `sequences[i]`. `apply` and `take` come in turn, once a step."""

    def __init__(self, sequences: Rows[Sequence], device: torch.device) -> None:
        self._sequences = sequences
        self._penalised = [i for i, s in enumerate(sequences) if s.counts is not None]
        self._held = [i for i, s in enumerate(sequences) if s.request.further.min_tokens and s.guide is None]
        self._repeated = [i for i, s in enumerate(sequences) if s.seen is not None]
        rows = torch.tensor(self._repeated, device=device, dtype=torch.long)
        penalties = [sequences[i].request.further.repetition_penalty for i in self._repeated]
        self._repeated_rows, self._penalties = rows, torch.tensor(penalties, device=device)[:, None]
        self._seen: Tensor | None = None
        """Of each repeated row, whether a token is in its prompt or answer; as wide as the scores, once there were any.
        """
        biases = [(i, *bias) for i, s in enumerate(sequences) for bias in s.request.further.logit_bias.items()]
        self._biased = torch.tensor([bias[:2] for bias in biases], device=device, dtype=torch.long).reshape(-1, 2)
        self._biases = torch.tensor([bias[2] for bias in biases], device=device)

    @classmethod
    def of(cls, sequences: Rows[Sequence], device: torch.device) -> Self | None:
        """None where no row changes its scores."""
        return cls(sequences, device) if any(s.shapes_scores for s in sequences) else None

    def apply(self, logits: Tensor) -> Tensor:
        """The changed scores [rows, vocabulary], as float32; `logits` stays as it is."""
        scores = logits.to(torch.float32, copy=True)
        for row in self._held:
            if held := self._sequences[row].held:
                scores[row, [*held]] = -torch.inf
        if len(self._biases):
            scores[self._biased[:, 0], self._biased[:, 1]] += self._biases
        if self._repeated:
            self._penalise_repeated(scores)
        for row in self._penalised:
            _penalise(scores[row], self._sequences[row])
        return scores

    def take(self, tokens: Tensor) -> None:
        """Notes the tokens [rows] that were taken."""
        if self._seen is not None:
            self._seen.scatter_(1, tokens[self._repeated_rows][:, None], True)

    def _penalise_repeated(self, scores: Tensor) -> None:
        if self._seen is None:
            self._seen = torch.zeros((len(self._repeated), scores.shape[-1]), dtype=torch.bool, device=scores.device)
            for at, row in enumerate(self._repeated):
                said = sorted(self._sequences[row].seen or ())
                self._seen[at, torch.tensor(said, device=scores.device)] = True
        own = scores[self._repeated_rows]
        less = torch.where(own > 0, own / self._penalties, own * self._penalties)
        scores[self._repeated_rows] = torch.where(self._seen, less, own)


def _penalise(scores: Tensor, sequence: Sequence) -> None:
    """OpenAI's penalties in place on one row: presence once, frequency for every time the choice has said the token."""
    if not sequence.counts:
        return
    ids = torch.tensor(list(sequence.counts), device=scores.device)
    counts = torch.tensor(list(sequence.counts.values()), device=scores.device, dtype=scores.dtype)
    scores[ids] -= sequence.sampling.frequency_penalty * counts + sequence.sampling.presence_penalty


class Narrowing:
    """The rows of a batch that draw among their likeliest tokens only, by `top_k` or `min_p`."""

    def __init__(self, sequences: Rows[Sequence], rows: Rows[int], device: torch.device) -> None:
        self._rows = frozenset(rows)
        self._top_k = [s.request.further.top_k for s in sequences]
        self._min_p = torch.tensor([s.request.further.min_p for s in sequences], device=device)

    @classmethod
    def of(cls, sequences: Rows[Sequence], device: torch.device) -> Self | None:
        """None where no row is narrowed."""
        rows = [i for i, s in enumerate(sequences) if s.request.further.top_k or s.request.further.min_p]
        return cls(sequences, rows, device) if rows else None

    def apply(self, probabilities: Tensor, rows: Rows[int]) -> Tensor:
        """Probabilities [len(rows), any width] of these rows of the batch; where narrowed, the kept ones sum to 1.

        Tokens as likely as the last of `top_k` are kept with it.
        """
        places = [at for at, row in enumerate(rows) if row in self._rows]
        if not places:
            return probabilities
        device = probabilities.device
        index = torch.tensor(places, device=device)
        own = probabilities[index]
        floor = own.amax(-1, keepdim=True) * self._min_p[[rows[at] for at in places]][:, None]
        counts = [min(self._top_k[rows[at]], own.shape[-1]) for at in places]
        if most := max(counts):
            kept = torch.tensor(counts, device=device)[:, None]
            last = own.topk(most, -1).values.gather(-1, (kept - 1).clamp_(min=0))
            floor = torch.where(kept > 0, torch.maximum(floor, last), floor)
        own = own.masked_fill(own < floor, 0.0)
        probabilities[index] = own / own.sum(-1, keepdim=True)
        return probabilities
