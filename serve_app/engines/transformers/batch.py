"""The running sequences and their forward passes: prefill of those that join, one token for all that run.

Row i of every tensor belongs to `sequences[i]`. A row that ends is filled by the last row, so rows stay dense.

Keys and values of all running sequences: one slot a row, written in place, grown and shrunk as lengths change.

A layer's tensors are [rows, heads, positions, width]. Sequences lie left-aligned in their slots; what stands behind a
sequence's end is never read, because the attention mask hides it. Capacity follows the longest sequence closely, since
attention over a slice of a larger tensor costs up to twice that over a whole one.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from serve_app.engines.transformers.loading import LoadedModel
from serve_app.engines.transformers.lora import LoraStack
from serve_app.engines.transformers.sampler import SamplingPlan, sample
from serve_app.engines.transformers.sequence import Likely, Sequence

POSITION_BLOCK = 64
"""Positions are added in blocks of this size: rare copies against unused positions, which attention still reads."""


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's slots. `update` writes one new position per row, as `SlotCache.aim` said."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.empty(0)
        self.lengths = torch.empty(0)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: slots are made by `SlotCache.insert`."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes [rows, heads, 1, width] at each row's end; gives keys and values of all rows and positions."""
        count = key_states.shape[0]
        self.keys[self.rows, :, self.lengths] = key_states[:, :, 0]
        self.values[self.rows, :, self.lengths] = value_states[:, :, 0]
        return self.keys[:count], self.values[:count]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Whole capacity, offset 0."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Capacity in positions; lengths differ by row."""
        return int(self.keys.shape[2]) if self.keys is not None else 0

    def get_max_length(self) -> int:
        """Not bounded here."""
        return -1


class SlotCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """The cache that a decode step is run with. Rows in use are always 0 .. n-1."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[SlotLayer() for _ in range(layers)])
        self.capacity_rows = self.capacity_positions = 0

    def aim(self, rows: Tensor, lengths: Tensor) -> None:
        """Where the next step writes: position `lengths[i]` of row `rows[i]`."""
        for layer in self.layers:
            layer.rows, layer.lengths = rows, lengths

    def fit(self, used_rows: int, rows: int, positions: int) -> None:
        """Makes room for `rows` rows of `positions` positions, keeping the first `used_rows`; shrinks at half use."""
        rows = _grown(self.capacity_rows, rows, _next_power(rows))
        positions = _grown(self.capacity_positions, positions, -(-positions // POSITION_BLOCK) * POSITION_BLOCK)
        if (rows, positions) == (self.capacity_rows, self.capacity_positions):
            return
        kept = min(positions, self.capacity_positions)
        self.capacity_rows, self.capacity_positions = rows, positions
        for layer in self.layers:
            if layer.keys is not None:
                layer.keys = _resized(layer.keys, used_rows, kept, (rows, positions))
                layer.values = _resized(layer.values, used_rows, kept, (rows, positions))

    def insert(self, first_row: int, prefilled: Iterable[Any], sources: Tensor, positions: int) -> None:
        """Copies prefilled layers into the rows from `first_row`: row `first_row + i` gets their row `sources[i]`."""
        last = first_row + sources.shape[0]
        for layer, filled in zip(self.layers, prefilled, strict=True):
            if layer.keys is None:
                layer.keys = self._slots(filled.keys)
                layer.values = self._slots(filled.values)
            layer.keys[first_row:last, :, :positions] = filled.keys[sources]
            layer.values[first_row:last, :, :positions] = filled.values[sources]

    def move(self, source: int, target: int, positions: int) -> None:
        """Copies a row's first positions over another row."""
        for layer in self.layers:
            layer.keys[target, :, :positions] = layer.keys[source, :, :positions]
            layer.values[target, :, :positions] = layer.values[source, :, :positions]

    def clear(self) -> None:
        """Frees the memory."""
        self.capacity_rows = self.capacity_positions = 0
        for layer in self.layers:
            layer.keys = layer.values = None

    def _slots(self, like: Tensor) -> Tensor:
        """Zeros, as masked positions still enter products (with weight 0, and 0 x NaN is NaN)."""
        return like.new_zeros((self.capacity_rows, like.shape[1], self.capacity_positions, like.shape[3]))


def _resized(slots: Tensor, rows: int, positions: int, shape: tuple[int, int]) -> Tensor:
    resized = slots.new_zeros((shape[0], slots.shape[1], shape[1], slots.shape[3]))
    resized[:rows, :, :positions] = slots[:rows, :, :positions]
    return resized


def _grown(capacity: int, needed: int, rounded: int) -> int:
    """The capacity kept, unless it is too small or more than twice what is needed."""
    return capacity if needed <= capacity <= 2 * rounded else rounded


def _next_power(count: int) -> int:
    return 1 << (count - 1).bit_length()


Sampled = list[tuple[Sequence, int, Likely | None]]


class Batch:
    """Not thread-safe: one thread calls it. After an error `reset` makes it usable again."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model, self._config, self._device = loaded.model, loaded.model.config, loaded.device
        self.lora = LoraStack(loaded.model)
        self.sequences: list[Sequence] = []
        self.reset()

    def reset(self) -> None:
        """Forgets all rows."""
        self.sequences = []
        self._cache = SlotCache(len(DynamicCache(config=self._config).layers))
        self._tokens = torch.empty(0, dtype=torch.long, device=self._device)
        self._lengths = torch.empty(0, dtype=torch.long, device=self._device)
        self._plan: SamplingPlan | None = None
        self.lora.clear()

    @torch.inference_mode()
    def prefill(self, joiners: Rows[Sequence]) -> Sampled:
        """Reads the joiners' prompts in one pass, adds them as rows and samples their first tokens.

        Choices of one request that stand next to each other share the reading.
        """
        requests = list(dict.fromkeys(s.request for s in joiners))
        number = {request: i for i, request in enumerate(requests)}
        sources = torch.tensor([number[s.request] for s in joiners], device=self._device)
        cache = DynamicCache(config=self._config)
        self.lora.select([r.adapter for r in requests], others=(s.request.adapter for s in self.sequences))
        logits = self._read([r.prompt_ids for r in requests], cache)[sources]
        tokens, likely = sample(logits, SamplingPlan.of(joiners, self._device))
        self._append(joiners, cache, sources, tokens)
        return [(s, token, likely.get(i)) for i, (s, token) in enumerate(zip(joiners, tokens.tolist(), strict=True))]

    @torch.inference_mode()
    def decode(self) -> Sampled:
        """One further token for every row."""
        count = len(self.sequences)
        self._cache.fit(count, count, 1 + max(s.length for s in self.sequences))
        positions = torch.arange(self._cache.capacity_positions, device=self._device)
        self._cache.aim(torch.arange(count, device=self._device), self._lengths)
        self.lora.select([s.request.adapter for s in self.sequences])
        logits = self._model(
            input_ids=self._tokens[:, None],
            attention_mask=(positions <= self._lengths[:, None])[:, None, None],
            position_ids=self._lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        if self._plan is None:
            self._plan = SamplingPlan.of(self.sequences, self._device)
        self._tokens, likely = sample(logits, self._plan)
        self._lengths = self._lengths + 1
        for sequence in self.sequences:
            sequence.length += 1
        tokens = self._tokens.tolist()
        return [(s, token, likely.get(i)) for i, (s, token) in enumerate(zip(self.sequences, tokens, strict=True))]

    @torch.inference_mode()
    def leave(self, rows: list[int]) -> None:
        """Takes rows out; the last rows move into the gaps."""
        for row in sorted(rows, reverse=True):
            last = len(self.sequences) - 1
            if row != last:
                self.sequences[row] = self.sequences[last]
                self._cache.move(last, row, self.sequences[row].length)
                self._tokens[row] = self._tokens[last]
                self._lengths[row] = self._lengths[last]
            self.sequences.pop()
        count = len(self.sequences)
        self._tokens, self._lengths, self._plan = self._tokens[:count], self._lengths[:count], None
        if not count:
            self._cache.clear()
            self.lora.clear()

    def _read(self, prompts: list[list[int]], cache: DynamicCache) -> Tensor:
        """Logits [prompts, vocabulary] after each prompt. Shorter prompts are padded on the right, where causal
        attention never looks; their padding's keys and values are overwritten as the sequence grows.
        """
        longest = max(len(p) for p in prompts)
        ids = torch.tensor([p + [p[-1]] * (longest - len(p)) for p in prompts], device=self._device)
        ends = torch.tensor([len(p) - 1 for p in prompts], device=self._device)
        kept, place = torch.unique(ends, return_inverse=True)
        logits: Tensor = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=kept).logits
        return logits[torch.arange(len(prompts), device=self._device), place]

    def _append(self, joiners: Rows[Sequence], cache: DynamicCache, sources: Tensor, tokens: Tensor) -> None:
        count = len(self.sequences)
        filled = cache.layers[0].keys.shape[2]
        longest = max(filled, *(1 + s.length for s in (*self.sequences, *joiners)))
        self._cache.fit(count, count + len(joiners), longest)
        self._cache.insert(count, cache.layers, sources, filled)
        self._tokens = torch.cat([self._tokens, tokens])
        self._lengths = torch.cat([self._lengths, torch.tensor([s.length for s in joiners], device=self._device)])
        self.sequences.extend(joiners)
        self._plan = None
