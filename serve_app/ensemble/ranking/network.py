"""The network of a pair ranker: an encoder, and one head for both sides over the states of the special tokens.

Jiang et al. 2023 (arXiv 2306.02561): the head (dropout, linear 2h to h, tanh, dropout, linear h to metrics) reads
[source; candidate] for each side, and the logit of a pair is the mean over metrics of left minus right. Forms:

    pair       one sequence of source and both candidates, as defined; any Hugging Face encoder
    pointwise  a reward model: one sequence of source and one candidate; a pair's logit is the difference of two values

Staged networks (`joint_layers`; BERT encoders only) split the layers: the lower ones read [source; candidate], where
the source does not see the candidate, the upper ones the whole pair. What the lower ones give is computed once a
candidate, not once a pair: the idea of PreTTR (MacAvaney et al. 2020, arXiv 2004.14255). Neither position nor special
token says which candidate is on the left: a learned bias between the candidates' tokens keeps them apart, so that
swapping them negates a logit exactly, and one order is enough.

Of the last layer only the special tokens' states are computed where the encoder is a BERT.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.ensemble.ranking.bert_layers import BertLayers, JoinedRows, SourceParts
from serve_app.ensemble.ranking.sequence import Lengths, SequenceTokenizer
from serve_app.errors import ConfigError

Form = Literal["pair", "pointwise"]
MULTIPLE = 8
"""Rows are padded to a multiple of this: oneDNN keeps code for every shape that it has met; see `learning.encoder`."""
_ANY = 10**9
_APART = -3.0
"""At first a candidate attends to the other one e^3 times less than to itself."""
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What a network is besides its encoder. `joint_layers`: None for one that reads whole pairs in every layer."""

    form: Form = "pair"
    metrics: tuple[str, ...] = ("quality",)
    lengths: Lengths = field(default_factory=Lengths)
    joint_layers: int | None = None
    dropout: float = 0.1

    @property
    def most_tokens(self) -> int:
        """Of a row; in a staged network both candidates of a pair have the same positions."""
        sides = 1 if self.form == "pointwise" or self.joint_layers is not None else 2
        return self.lengths.source + sides * self.lengths.candidate


@dataclass(slots=True)
class Parts:
    """Token ids of sources, and of candidates with the source that each belongs to."""

    sources: list[list[int]]
    candidates: list[list[int]]
    source_of: list[int]


@dataclass(slots=True)
class Lower:
    """What lower layers gave: states [tokens, width] of each source, and of each candidate after its source."""

    sources: list[Tensor]
    candidates: list[Tensor]
    source_of: list[int]

    def flat(self) -> tuple[Tensor, list[int], list[int]]:
        """All states one after another, and where each source and each candidate begins."""
        parts = [*self.sources, *self.candidates]
        begins = [0, *np.cumsum([len(part) for part in parts]).tolist()]
        return torch.cat(parts), begins[: len(self.sources)], begins[len(self.sources) : -1]

    def picked(self, candidates: Sequence[int]) -> "Lower":
        """Some of the candidates, with their sources."""
        used = sorted({self.source_of[k] for k in candidates})
        position = {source: number for number, source in enumerate(used)}
        of = [position[self.source_of[k]] for k in candidates]
        return Lower([self.sources[source] for source in used], [self.candidates[k] for k in candidates], of)


class RankingNetwork(torch.nn.Module):
    """See the module. `body` is a Hugging Face encoder whose embeddings have a row for each special token."""

    def __init__(self, body: Any, tokens: SequenceTokenizer, shape: NetworkShape) -> None:
        super().__init__()
        self.shape, self.mark, self.tokens = shape, tokens.mark, tokens
        self.body = body
        self.width = width = int(body.config.hidden_size)
        self.head = torch.nn.Sequential(
            torch.nn.Dropout(shape.dropout),
            torch.nn.Linear(2 * width, width),
            torch.nn.Tanh(),
            torch.nn.Dropout(shape.dropout),
            torch.nn.Linear(width, len(shape.metrics)),
        )
        self.layers = BertLayers.of(body)
        self._positions = int(getattr(body.config, "max_position_embeddings", 0) or _ANY)
        if shape.joint_layers is not None:
            if self.layers is None:
                raise ConfigError("joint_layers is for BERT encoders: leave it out")
            if not 1 <= shape.joint_layers < len(self.layers):
                raise ConfigError(f"joint_layers {shape.joint_layers}: this encoder has {len(self.layers)} layers")
            if shape.form == "pair":
                self.other = torch.nn.Parameter(torch.full((shape.joint_layers,), _APART))
        self._check_lengths()

    @property
    def staged(self) -> bool:
        """Whether the lower layers read candidates alone."""
        return self.shape.joint_layers is not None

    @property
    def bound(self) -> float:
        """No logit is larger: 2 * sum of |mean over metrics of the last linear layer's weights|, as |tanh| <= 1."""
        weight: Any = self.head[4].weight
        return 2.0 * float(weight.detach().float().mean(0).abs().sum())

    def forward(self, parts: Parts, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Outputs for the left and for the right candidate of each pair, [pairs, metrics] each.

        `pairs` are positions in `parts.candidates`; both of a pair belong to one source.
        """
        if self.staged:
            return self.upper(self.lower(parts), pairs)
        if self.shape.form == "pointwise":
            return _sides_of(self.values(parts), pairs)
        rows, marks = [], []
        for left, right in pairs:
            source, one = parts.sources[parts.source_of[left]], parts.candidates[left]
            rows.append([*source, *one, *self.tokens.right(parts.candidates[right])])
            marks.append([self.mark, len(source) + self.mark, len(source) + len(one) + self.mark])
        return self._sides(self._read(rows, marks))

    def values(self, parts: Parts) -> Tensor:
        """A pointwise network's value of each candidate, [candidates, metrics]."""
        if self.staged:
            return self.upper_values(self.lower(parts))
        rows, starts = self._rows(parts)
        return self._values(self._read(rows, self._marks(starts)))

    def lower(self, parts: Parts, passes: Iterable[Sequence[int]] | None = None) -> Lower:
        """What a staged network's lower layers give, for each source once and for each candidate once.

        `passes`: the candidates of each forward pass; all in one by default.
        """
        assert self.layers is not None
        ids, lengths = _padded(parts.sources, self.tokens.pad, self._positions)
        cache = self.layers.read_sources(ids, lengths, len(self.layers) - self._joint)
        sources = [states[:length] for states, length in zip(cache.states, lengths.tolist(), strict=True)]
        candidates: list[Tensor] = [cache.states[0]] * len(parts.candidates)
        for chosen in (range(len(parts.candidates)),) if passes is None else passes:
            ids, lengths = _padded([parts.candidates[k] for k in chosen], self.tokens.pad, self._positions)
            states = self.layers.read_after(ids, lengths, torch.tensor([parts.source_of[k] for k in chosen]), cache)
            for k, own, length in zip(chosen, states, lengths.tolist(), strict=True):
                candidates[k] = own[:length]
        return Lower(sources, candidates, parts.source_of)

    def upper_values(self, lower: Lower) -> Tensor:
        """`values` from what `lower` gave."""
        assert self.layers is not None
        states, rows = self._joined([(k, None) for k in range(len(lower.candidates))], lower)
        return self._values(self.layers.run_joint(states, rows, self._joint))

    def upper(self, lower: Lower, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """`forward` from what `lower` gave."""
        assert self.layers is not None
        if self.shape.form == "pointwise":
            return _sides_of(self.upper_values(lower), pairs)
        if self._joint == 1:
            return self._merged(lower, pairs)
        states, rows = self._joined(pairs, lower)
        return self._sides(self.layers.run_joint(states, rows, self._joint, self.other))

    def _merged(self, lower: Lower, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """All pairs of a source at once, where only the last layer is joint."""
        assert self.layers is not None
        of_source: dict[int, list[int]] = {}
        for number, (i, _) in enumerate(pairs):
            of_source.setdefault(lower.source_of[i], []).append(number)
        flat, source_at, candidate_at = lower.flat()
        states, order = list[Tensor](), list[int]()
        for source, numbers in of_source.items():
            own = sorted({place for number in numbers for place in pairs[number]})
            position = {place: k for k, place in enumerate(own)}
            local = torch.tensor([[position[i], position[j]] for i, j in (pairs[number] for number in numbers)])
            begins = (source_at[source], [candidate_at[k] for k in own])
            parts = self._source_parts(begins, len(lower.sources[source]), [len(lower.candidates[k]) for k in own])
            states.append(self.layers.merge_last(flat, parts, local, self.other[0]))
            order += numbers
        return self._sides(torch.cat(states)[np.argsort(order)])

    def _source_parts(self, begins: tuple[int, list[int]], source: int, lengths: Sequence[int]) -> SourceParts:
        """`begins`: of the source and of each candidate in the states; `source` and `lengths`: their tokens."""
        candidates = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
        for k, (first, length) in enumerate(zip(begins[1], lengths, strict=True)):
            candidates[k, :length] = np.arange(first, first + length)
        inside = np.arange(candidates.shape[1])[None, :] < np.array(lengths)[:, None]
        marks = torch.tensor([begins[0], *begins[1]]) + self.mark
        at = torch.arange(begins[0], begins[0] + source)
        return SourceParts(marks, at, torch.from_numpy(candidates), torch.from_numpy(inside))

    @property
    def _joint(self) -> int:
        assert self.shape.joint_layers is not None
        return self.shape.joint_layers

    def _values(self, states: Tensor) -> Tensor:
        outputs: Tensor = self.head(states.flatten(1))
        return outputs

    def _marks(self, starts: Sequence[int]) -> list[list[int]]:
        return [[self.mark, start + self.mark] for start in starts]

    def _joined(self, pairs: Sequence[tuple[int, int | None]], lower: Lower) -> tuple[Tensor, JoinedRows]:
        """The states, and in them source, left and right candidate of each pair; or of a single candidate."""
        flat, source_at, candidate_at = lower.flat()
        rows, segments, marks = list[list[int]](), list[list[int]](), list[list[int]]()
        for pair in pairs:
            source = lower.source_of[pair[0]]
            row = list(range(source_at[source], source_at[source] + len(lower.sources[source])))
            segment, mark = [0] * len(row), [self.mark]
            for side, k in enumerate(pair, start=1):
                if k is not None:
                    mark.append(len(row) + self.mark)
                    row += range(candidate_at[k], candidate_at[k] + len(lower.candidates[k]))
                    segment += [side] * len(lower.candidates[k])
            rows.append(row)
            segments.append(segment)
            marks.append(mark)
        index, lengths = _padded(rows, 0, _ANY)
        return flat, JoinedRows(index, lengths, torch.tensor(marks), _padded(segments, 0, _ANY)[0])

    def _rows(self, parts: Parts) -> tuple[list[list[int]], list[int]]:
        """[source; candidate] of each candidate, and where the candidate begins."""
        sources = [parts.sources[k] for k in parts.source_of]
        rows = [[*source, *part] for source, part in zip(sources, parts.candidates, strict=True)]
        return rows, [len(source) for source in sources]

    def _read(self, rows: Sequence[Sequence[int]], marks: Sequence[Sequence[int]]) -> Tensor:
        """Last-layer states at the marks, [rows, marks, width]."""
        ids, lengths = _padded(rows, self.tokens.pad, self._positions)
        at = torch.tensor(marks)
        if self.layers is not None:
            return self.layers.read(ids, lengths, at)
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        states: Tensor = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        return states.gather(1, at[:, :, None].expand(-1, -1, states.shape[2]))

    def _sides(self, states: Tensor) -> tuple[Tensor, Tensor]:
        source, left, right = states.unbind(1)
        return self.head(torch.cat([source, left], dim=1)), self.head(torch.cat([source, right], dim=1))

    def _check_lengths(self) -> None:
        if self.shape.most_tokens > self._positions:
            lengths = self.shape.lengths
            raise ConfigError(
                f"rows of source {lengths.source} and candidates of {lengths.candidate} tokens have up to "
                f"{self.shape.most_tokens}; this encoder has {self._positions} positions: lower the lengths"
            )


def _sides_of(values: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    return values[[left for left, _ in pairs]], values[[right for _, right in pairs]]


def _padded(rows: Sequence[Sequence[int]], pad: int, most: int) -> tuple[Tensor, Tensor]:
    """Ids [rows, tokens], padded at the end to a multiple of MULTIPLE but to no more than `most`, and the lengths."""
    lengths = np.array([len(row) for row in rows])
    width = max(int(lengths.max()), min(-(-int(lengths.max()) // MULTIPLE) * MULTIPLE, most))
    ids: NDArray[np.int64] = np.full((len(rows), width), pad, dtype=np.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
    return torch.from_numpy(ids), torch.from_numpy(lengths)
