"""Real models small enough for tests: the lab's architecture and tokenizer with random weights, saved to a folder."""

from pathlib import Path

import torch

from serve_app.config.engines import TransformersSettings
from serve_app.lab.model import SIZES, SPECIALS, build_tokenizer, new_model

CONTEXT_TOKENS = 512


def save_random_model(folder: Path, seed: int = 0) -> Path:
    """A model folder that any engine loads; its answers are noise, always the same, and seldom end by themselves."""
    model = new_model(SIZES["small"], seed)
    with torch.no_grad():
        model.get_input_embeddings().weight[: len(SPECIALS)] *= 0.01
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def settings_for(folder: Path, **options: object) -> TransformersSettings:
    return TransformersSettings.model_validate({"path": str(folder), **options})
