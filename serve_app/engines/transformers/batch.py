"""The running sequences and their forward passes: prefill of those that join, one token for all that run.

Row i of every tensor belongs to `sequences[i]`. A row that ends is filled by the last row, so rows stay dense.
"""

from collections.abc import Sequence as Rows

import torch
from torch import Tensor
from transformers import DynamicCache

from serve_app.engines.transformers.loading import LoadedModel
from serve_app.engines.transformers.sampler import SamplingPlan, sample
from serve_app.engines.transformers.sequence import Likely, Sequence
from serve_app.engines.transformers.slots import SlotCache

Sampled = list[tuple[Sequence, int, Likely | None]]


class Batch:
    """Not thread-safe: one thread calls it. After an error `reset` makes it usable again."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._config = loaded.model.config
        self._device = loaded.device
        self.sequences: list[Sequence] = []
        self.reset()

    def reset(self) -> None:
        """Forgets all rows."""
        self.sequences = []
        self._cache = SlotCache(len(DynamicCache(config=self._config).layers))
        self._tokens = torch.empty(0, dtype=torch.long, device=self._device)
        self._lengths = torch.empty(0, dtype=torch.long, device=self._device)
        self._plan: SamplingPlan | None = None

    @torch.inference_mode()
    def prefill(self, joiners: Rows[Sequence]) -> Sampled:
        """Reads the joiners' prompts in one pass, adds them as rows and samples their first tokens.

        Choices of one request that stand next to each other share the reading.
        """
        requests = list(dict.fromkeys(s.request for s in joiners))
        number = {request: i for i, request in enumerate(requests)}
        sources = torch.tensor([number[s.request] for s in joiners], device=self._device)
        cache = DynamicCache(config=self._config)
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
        lengths = torch.tensor([s.length for s in joiners], device=self._device)
        self._tokens = torch.cat([self._tokens, tokens])
        self._lengths = torch.cat([self._lengths, lengths])
        self.sequences.extend(joiners)
        self._plan = None
