"""Loads a causal language model with its tokenizer from a folder or a Hugging Face id, and says what it can hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging

from serve_app.config.engines import TransformersSettings
from serve_app.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready for inference on `device`, its tokenizer, the ids that end a text, and its context in tokens."""

    model: Any
    tokenizer: Any
    device: torch.device
    eos_ids: frozenset[int]
    context_tokens: int


def load_model(settings: TransformersSettings) -> LoadedModel:
    """Raises ConfigError that says what to change if the model cannot be loaded or its cache cannot be batched."""
    logging.disable_progress_bar()
    path = str(Path(settings.path).expanduser()) if settings.path.startswith("~") else settings.path
    try:
        device = torch.device(settings.device)
        config = AutoConfig.from_pretrained(path)
        _check_cache(path, config)
        tokenizer = AutoTokenizer.from_pretrained(path)
        dtype = getattr(torch, settings.dtype)
        how = {"dtype": dtype, "attn_implementation": "sdpa", "use_safetensors": True}
        model = AutoModelForCausalLM.from_pretrained(path, **how).to(device).eval()
    except (OSError, ValueError, RuntimeError, ImportError) as e:
        raise ConfigError(
            f"model {settings.path!r} cannot be loaded on {settings.device} as {settings.dtype}: {e}; "
            "engine.path must be a folder with a causal language model and its tokenizer, or a Hugging Face id"
        ) from e
    return LoadedModel(model, tokenizer, device, _eos_ids(model, tokenizer), _context(path, config))


def _check_cache(path: str, config: Any) -> None:
    """Sliding windows and recurrent states need other caches than `slots` keeps."""
    kinds = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer}
    if kinds or getattr(config, "is_encoder_decoder", False):
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "an encoder"
        raise ConfigError(
            f"model {path!r} uses {names}; this engine batches plain attention caches only: use engine.kind vllm"
        )


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)


def _context(path: str, config: Any) -> int:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or context < 2:
        raise ConfigError(f"model {path!r} names no max_position_embeddings: its context is not known")
    return context
