"""Encoder-decoder models of Hugging Face folders, loaded strictly: safetensors alone, and no weight left random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ConfigError, needs_extra

_HARMLESS = frozenset({"final_logits_bias"})
"""Weights that a model may lack: BART's bias of its logits is zero unless it was trained."""
IGNORED = -100
"""Label of padding, as Hugging Face models take it."""
_UNBOUNDED = 2**31


@dataclass(frozen=True, slots=True)
class Seq2Seq:
    """A model in evaluation mode on its device, and its tokenizer, which has a padding token."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> str:
        """Where the model is, as torch names it."""
        return str(self.model.device)

    def positions(self, side: str) -> int:
        """Tokens that the `encoder` or `decoder` can read; without bound where positions are relative."""
        for name in (f"max_{side}_position_embeddings", "max_position_embeddings"):
            bound = getattr(self.model.config, name, None)
            if bound is not None:
                return int(bound)
        return _UNBOUNDED

    def padded(self, rows: Sequence[Sequence[int]], filler: int) -> tuple[Any, Any]:
        """Ids of shape [rows, longest], `filler` to the right of each row, and the mask of what is no filler."""
        import torch

        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        return ids, mask


def load_seq2seq(folder: Path, device: str | None = None, dtype: str = "float32") -> Seq2Seq:
    """The model in a folder; `device` is any that torch names, by default a GPU if there is one.

    Raises ConfigError naming the folder and what to do. No code of the folder's is run.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{folder}: no seq2seq model; give a folder with config.json and *.safetensors")
    torch, transformers = libraries()
    from safetensors import SafetensorError

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if not config.is_encoder_decoder:
            raise ConfigError(f"{folder}: {config.model_type} is no encoder-decoder model; give one as BART or T5")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model, loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            folder, use_safetensors=True, dtype=getattr(torch, dtype), output_loading_info=True
        )
        model = model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
        raise ConfigError(f"{folder}: the model cannot be loaded ({e}); save it again with save_pretrained") from e
    if missing := set(loaded["missing_keys"]) - _HARMLESS:
        raise ConfigError(f"{folder}: the weights lack {min(missing)} and would be random; save the whole model")
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{folder}: its tokenizer has no padding token; set pad_token in tokenizer_config.json")
    return Seq2Seq(model, tokenizer)


def libraries() -> tuple[Any, Any]:
    """torch and transformers. Raises DependencyError naming the extra that brings them."""
    with needs_extra("a seq2seq model needs torch and transformers", "train"):
        import torch
        import transformers
    transformers.utils.logging.disable_progress_bar()  # no bar for every load of a small model
    return torch, transformers
