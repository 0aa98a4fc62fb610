"""Mixed precision on CPUs: whether this one multiplies bfloat16 natively, and passes that do."""

from contextlib import AbstractContextManager
from typing import Any

_NATIVE = ("avx512_bf16", "amx_bf16")
"""Capabilities of x86 CPUs, as torch names them; without one of them bfloat16 would be emulated, and slow."""


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 (AVX512-BF16 or AMX), so that mixed precision pays."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in _NATIVE)


def mixed(enabled: bool) -> AbstractContextManager[Any]:
    """Context for one forward pass in which matrix products run in bfloat16, if enabled.

    Weights, their moments and the loss stay in float32 (Micikevicius et al. 2018). Weights are cast afresh at each
    use: a cache of casts would go stale when the optimizer steps.
    """
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)
