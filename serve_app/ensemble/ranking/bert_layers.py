"""Layers of a BERT encoder, run apart: the lower ones, the upper ones over joined states, the last for few tokens.

The arithmetic is that of Hugging Face's BertModel, whose modules and weights are used, dropout in training included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class JoinedRows:
    """Rows put together from states: row r is `states[index[r]]` up to `lengths[r]`.

    `marks` [rows, k]: positions of the special tokens. `segments` [rows, tokens]: 0 source, 1 left, 2 right candidate.
    """

    index: Tensor
    lengths: Tensor
    marks: Tensor
    segments: Tensor

    def mask(self, padding: Tensor, bias: Tensor | None, last: bool) -> Tensor:
        """`padding` with the bias between the candidates: [rows, 1, tokens or marks, tokens]."""
        if bias is None:
            return padding
        of = self.segments.gather(1, self.marks) if last else self.segments
        return padding + bias * (of[:, :, None] * self.segments[:, None, :] == 2)[:, None].float()


@dataclass(frozen=True, slots=True)
class SourceCache:
    """What the lower layers made of sources: last states [sources, tokens, width], and each layer's keys and values."""

    states: Tensor
    lengths: Tensor
    keys: list[Tensor]
    values: list[Tensor]


@dataclass(frozen=True, slots=True)
class SourceParts:
    """Where the states of one source and its n candidates are: `marks` [1 + n] the special tokens, `source` [tokens],
    `candidates` [n, tokens] with `inside` false where there is none."""

    marks: Tensor
    source: Tensor
    candidates: Tensor
    inside: Tensor


class BertLayers:
    """The embeddings and layers of a BertModel."""

    def __init__(self, body: Any) -> None:
        self._embeddings = body.embeddings
        self._layers = list(body.encoder.layer)
        self._heads = int(body.config.num_attention_heads)

    @classmethod
    def of(cls, body: Any) -> BertLayers | None:
        """The layers of a model of type `bert` that reads both ways; None for any other."""
        plain = body.config.model_type == "bert" and not body.config.is_decoder
        return cls(body) if plain else None

    def __len__(self) -> int:
        return len(self._layers)

    def read_sources(self, ids: Tensor, lengths: Tensor, layers: int) -> SourceCache:
        """Sources alone [sources, tokens] through so many layers."""
        x: Tensor = self._embeddings(input_ids=ids)
        mask, keys, values = _mask(lengths, ids.shape[1]), list[Tensor](), list[Tensor]()
        for layer in self._layers[:layers]:
            own = layer.attention.self
            keys.append(own.key(x))
            values.append(own.value(x))
            x = self._rest(layer, own.query(x), keys[-1], values[-1], mask, x)
        return SourceCache(x, lengths, keys, values)

    def read_after(self, ids: Tensor, lengths: Tensor, source_of: Tensor, cache: SourceCache) -> Tensor:
        """Candidates [rows, tokens], each after its source, through the cache's layers: [rows, tokens, width]."""
        starts = cache.lengths[source_of]
        positions = starts[:, None] + torch.arange(ids.shape[1])[None, :]
        most = self._embeddings.position_embeddings.num_embeddings - 1
        x: Tensor = self._embeddings(input_ids=ids, position_ids=positions.clamp(max=most))  # of padding alone
        mask = torch.cat([_mask(starts, cache.states.shape[1]), _mask(lengths, ids.shape[1])], dim=3)
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=False):
            own = layer.attention.self
            key = torch.cat([keys[source_of], own.key(x)], dim=1)
            value = torch.cat([values[source_of], own.value(x)], dim=1)
            x = self._rest(layer, own.query(x), key, value, mask, x)
        return x

    def read(self, ids: Tensor, lengths: Tensor, marks: Tensor) -> Tensor:
        """Last-layer states at the marks [rows, k]: [rows, k, width]."""
        x: Tensor = self._embeddings(input_ids=ids)
        mask = _mask(lengths, ids.shape[1])
        for layer in self._layers[:-1]:
            x = self._whole(layer, x, mask)
        return self._last(x, mask, marks)

    def run_joint(self, states: Tensor, rows: JoinedRows, layers: int, bias: Tensor | None = None) -> Tensor:
        """Last-layer states at the marks, after the last `layers` layers over rows of `states` [tokens, width].

        `bias` [layers] is added to the attention of each candidate's tokens to the other candidate's. Projections of
        the first of these layers are computed once for each of the states, not for each row that it is in.
        """
        first, *others = self._layers[-layers:]
        own, index, padding = first.attention.self, rows.index, _mask(rows.lengths, rows.index.shape[1])
        masks = [rows.mask(padding, None if bias is None else bias[k], last=k + 1 == layers) for k in range(layers)]
        key, value = functional.embedding(index, own.key(states)), functional.embedding(index, own.value(states))
        if not others:
            at = index.gather(1, rows.marks)
            return self._rest(first, own.query(states[at]), key, value, masks[0], states[at])
        query, residual = functional.embedding(index, own.query(states)), functional.embedding(index, states)
        x = self._rest(first, query, key, value, masks[0], residual)
        for layer, mask in zip(others[:-1], masks[1:], strict=False):
            x = self._whole(layer, x, mask)
        return self._last(x, masks[-1], rows.marks)

    def merge_last(self, states: Tensor, parts: SourceParts, pairs: Tensor, bias: Tensor) -> Tensor:
        """`run_joint` of the last layer alone, for all pairs [n, 2] of one source's candidates: [n, 3, width].

        A special token attends to the source and to each candidate once, whatever pairs they are in; the shares of a
        pair's parts follow from their log-sum-exp, and merging them is exact (as in Dao et al. 2022, section 3.1).
        """
        layer = self._layers[-1]
        own, chosen = layer.attention.self, states[parts.marks]
        key, value = own.key(states), own.value(states)
        with torch.autocast("cpu", enabled=False):
            query = self._split(own.query(chosen)) * own.scaling
            drop = own.dropout.p if own.training else 0.0
            total, mean = [], []
            for index, inside in ((parts.source[None], None), (parts.candidates, parts.inside)):
                scores = torch.einsum("qhd,clhd->qchl", query, self._split(key[index]))
                if inside is not None:
                    scores = scores.masked_fill(~inside[None, :, None, :], torch.finfo(scores.dtype).min)
                total.append(scores.logsumexp(-1))
                weights = functional.dropout(scores.softmax(-1), drop)
                mean.append(torch.einsum("qchl,clhd->qchd", weights, self._split(value[index])))
            at = torch.stack([torch.zeros_like(pairs[:, 0]), 1 + pairs[:, 0], 1 + pairs[:, 1]], dim=1)  # queries [n, 3]
            apart = bias * torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])[None, :, :, None]
            shares = total[1][at[:, :, None], pairs[:, None, :]] + apart
            shares = torch.cat([total[0][at], shares], dim=2).softmax(2)
            means = torch.cat([mean[0][at], mean[1][at[:, :, None], pairs[:, None, :]]], dim=2)
            attended = (shares[..., None] * means).sum(2).flatten(2)
        x = layer.attention.output(attended, chosen[at])
        found: Tensor = layer.output(layer.intermediate(x), x)
        return found

    def _split(self, x: Tensor) -> Tensor:
        """The last dimension by heads, in float32."""
        return x.float().view(*x.shape[:-1], self._heads, -1)

    def _whole(self, layer: Any, x: Tensor, mask: Tensor) -> Tensor:
        own = layer.attention.self
        return self._rest(layer, own.query(x), own.key(x), own.value(x), mask, x)

    def _last(self, x: Tensor, mask: Tensor, marks: Tensor) -> Tensor:
        layer = self._layers[-1]
        own = layer.attention.self
        chosen = x.gather(1, marks[:, :, None].expand(-1, -1, x.shape[2]))
        return self._rest(layer, own.query(chosen), own.key(x), own.value(x), mask, chosen)

    def _rest(self, layer: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, residual: Tensor) -> Tensor:
        """A layer from its projections on."""
        own = layer.attention.self
        attended = self._attention(query, key, value, mask, own.dropout.p if own.training else 0.0)
        x = layer.attention.output(attended, residual)
        states: Tensor = layer.output(layer.intermediate(x), x)
        return states

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
        q, k, v = (x.view(*x.shape[:2], self._heads, -1).transpose(1, 2) for x in (query, key, value))
        with torch.autocast("cpu", enabled=False):  # the backward pass of bfloat16 attention is ten times slower
            q, k, v = q.to(mask.dtype), k.to(mask.dtype), v.to(mask.dtype)
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(2)


def _mask(lengths: Tensor, width: int) -> Tensor:
    """0 where there is a token, the least float32 elsewhere: [rows, 1, 1, width]."""
    padding = torch.arange(width)[None, :] >= lengths[:, None]
    return torch.zeros(padding.shape).masked_fill(padding, torch.finfo(torch.float32).min)[:, None, None, :]
