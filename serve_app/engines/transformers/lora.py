"""LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021) for batches of different adapters.

A linear module's output for a row with an adapter is W·x + scale · B·(A·x). For a batch, the A of all adapters in it
are stacked along the rank, and so are the B, with `scale` in them. One product gives every row its A·x for every
adapter; a mask of zeros and ones keeps those of the row's own one; a second product adds B. So a step takes the same
few operations however many adapters its rows use, and a row's result does not depend on the others'.

PEFT does the same with one pass a module and adapter, and registers a hook on every module at every forward pass.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from serve_app.adapters.card import AdapterCard
from serve_app.adapters.files import WEIGHTS, tensor_key
from serve_app.errors import InvalidAdapter


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """One adapter in memory. By module: `down` [inputs, rank] and `up` [rank, outputs], `up` times the scale."""

    name: str
    pairs: Mapping[str, tuple[Tensor, Tensor]]


def load_weights(card: AdapterCard, device: torch.device, dtype: torch.dtype) -> LoraWeights:
    """Read an adapter that was checked. Call it in a thread.

    Raises InvalidAdapter if the file is damaged, or holds a number that is not finite.
    """
    file = card.folder / WEIGHTS
    pairs = {}
    try:
        with safe_open(file, "pt") as tensors:
            for module in card.files.modules:
                down, up = (tensors.get_tensor(tensor_key(module, side)).float() for side in ("A", "B"))
                if not (down.isfinite().all() and up.isfinite().all()):
                    raise InvalidAdapter(f"{file}: {module} holds numbers that are not finite; train the adapter again")
                scaled = (down.T, up.T * card.files.scale)
                pairs[module] = tuple(t.to(device, dtype).contiguous() for t in scaled)
    except (SafetensorError, OSError, RuntimeError) as e:
        raise InvalidAdapter(f"{file}: is damaged ({e}); add the adapter again") from e
    return LoraWeights(card.name, {module: (down, up) for module, (down, up) in pairs.items()})


def weight_bytes(card: AdapterCard, dtype: torch.dtype) -> int:
    """Memory that an adapter takes, in the number format of the model."""
    return card.files.parameters * dtype.itemsize


@dataclass(slots=True)
class _Stacked:
    """The stacked adapters of one module: `down` [inputs, ranks], `up` [ranks, outputs]; `owners`: (adapter, rank)."""

    down: Tensor
    up: Tensor
    owners: tuple[tuple[LoraWeights, int], ...]
    mask: Tensor | None = None
    """[rows, 1, ranks]; None: every row uses the one adapter in the stack."""
    used: bool = False


class LoraStack:
    """Adds adapters to a model's linear modules. Not thread-safe: the thread that runs the model calls it.

    `select` says whose adapter each row of the following forward passes uses. The stack is rebuilt when an adapter
    joins that is not in it, or when most of it is used no more, with those in use alone.
    """

    def __init__(self, model: Any) -> None:
        self._modules = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        self._hooks: dict[str, Any] = {}
        self._stacked: dict[str, _Stacked] = {}
        self._members: tuple[LoraWeights, ...] = ()
        self._rows: tuple[LoraWeights | None, ...] = ()

    def select(self, rows: Sequence[LoraWeights | None], others: Iterable[LoraWeights | None] = ()) -> None:
        """The adapter of each row of the next forward passes; None: the base model alone.

        `others`: adapters of rows that run, but not in this pass.
        """
        chosen = tuple(rows)
        if chosen == self._rows:
            return
        self._rows = chosen
        used = tuple(dict.fromkeys(adapter for adapter in chosen if adapter is not None))
        if not used and not self._members:
            return
        needed = tuple(dict.fromkeys((*used, *(adapter for adapter in others if adapter is not None))))
        if not set(used) <= set(self._members) or len(self._members) > 2 * max(1, len(needed)):
            self._build(needed)
        self._aim(chosen, used)

    def clear(self) -> None:
        """Let go of all adapters."""
        self._rows, self._members, self._stacked = (), (), {}
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def missing(self, card: AdapterCard) -> str | None:
        """A module of an adapter that the model does not have as a linear one, or cannot batch by row; None: none."""
        for module, shape in card.files.modules.items():
            linear = self._modules.get(module)
            expert = ".experts." in f".{module}."
            if linear is None or expert or tuple(linear.weight.shape) != (shape.outputs, shape.inputs):
                return module
        return None

    def _build(self, members: tuple[LoraWeights, ...]) -> None:
        self._members, self._stacked = members, {}
        for name in dict.fromkeys(module for adapter in members for module in adapter.pairs):
            having = [adapter for adapter in members if name in adapter.pairs]
            downs, ups = zip(*(adapter.pairs[name] for adapter in having), strict=True)
            owners = tuple((adapter, adapter.pairs[name][0].shape[1]) for adapter in having)
            single = len(having) == 1
            down, up = (downs[0], ups[0]) if single else (torch.cat(downs, dim=1), torch.cat(ups, dim=0))
            self._stacked[name] = _Stacked(down, up, owners)
            if name not in self._hooks:
                self._hooks[name] = self._modules[name].register_forward_hook(partial(self._added, name))

    def _aim(self, rows: tuple[LoraWeights | None, ...], used: tuple[LoraWeights, ...]) -> None:
        """Masks for these rows, one for all modules whose stacks are alike."""
        masks: dict[tuple[tuple[LoraWeights, int], ...], Tensor | None] = {}
        for stacked in self._stacked.values():
            stacked.used = any(adapter in used for adapter, _ in stacked.owners)
            if stacked.used and stacked.owners not in masks:
                masks[stacked.owners] = _mask(rows, stacked)
            stacked.mask = masks.get(stacked.owners)

    def _added(self, name: str, module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """The hook: what the module returned, with the adapters' part added in place."""
        stacked = self._stacked.get(name)
        if stacked is None or not stacked.used:
            return None
        narrow = inputs[0] @ stacked.down
        if stacked.mask is not None:
            narrow *= stacked.mask
        width = output.shape[-1]
        output.view(-1, width).addmm_(narrow.view(-1, narrow.shape[-1]), stacked.up)
        return output


def _mask(rows: tuple[LoraWeights | None, ...], stacked: _Stacked) -> Tensor | None:
    if len(stacked.owners) == 1 and all(row is stacked.owners[0][0] for row in rows):
        return None
    number = {adapter: i for i, (adapter, _) in enumerate(stacked.owners)}
    device = stacked.down.device
    ranks = torch.tensor([rank for _, rank in stacked.owners], device=device)
    columns = torch.arange(len(ranks), device=device).repeat_interleave(ranks)
    chosen = torch.tensor([-1 if row is None else number.get(row, -1) for row in rows], device=device)
    return (chosen[:, None, None] == columns).to(stacked.down.dtype)
