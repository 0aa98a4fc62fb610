"""Linear layers whose weights oneDNN has packed ahead, exact GELU included: the same float32, a few per cent sooner.

The operators are those that torch's own compiler emits; torch is pinned to one minor version. Where they are missing
or do not give the same numbers the layers stay as they are.
"""

from typing import Any, Final

_CLOSE: Final = 1e-4
"""Largest difference of a layer's output, whose values are of the order of 1."""


def pack(model: Any) -> int:
    """Replace the linear layers of a torch module, in place. Returns how many were replaced."""
    import torch

    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return 0
    packed = _packed_class()
    replaced, inside = 0, set[int]()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if id(child) in inside:
                continue
            dense = getattr(child, "dense", None)
            if _is_exact_gelu(getattr(child, "intermediate_act_fn", None)) and isinstance(dense, torch.nn.Linear):
                new = packed(dense, "gelu")
            elif isinstance(child, torch.nn.Linear):
                new = packed(child, "none")
            else:
                continue
            inputs = torch.randn(8, new.inputs)
            with torch.inference_mode():
                if not torch.allclose(new(inputs), child(inputs), atol=_CLOSE):
                    continue
            setattr(module, name, new)
            inside.add(id(dense))
            replaced += 1
    return replaced


def _is_exact_gelu(activation: Any) -> bool:
    """Whether it is the GELU by the error function, of torch or of transformers."""
    import torch

    kind = getattr(activation, "act", activation)
    return kind is torch.nn.functional.gelu or (
        isinstance(activation, torch.nn.GELU) and activation.approximate == "none"
    )


def _packed_class() -> Any:
    import torch

    class PackedLinear(torch.nn.Module):
        """x W^T + b, and an activation after it."""

        def __init__(self, plain: torch.nn.Linear, activation: str) -> None:
            super().__init__()
            self.activation, self.inputs = activation, plain.in_features
            self._weight = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), None)
            self._bias = None if plain.bias is None else plain.bias.detach()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, self.activation, [], "none"
            )
            return found

    return PackedLinear
