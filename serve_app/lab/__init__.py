"""The lab: exactly gradable tasks and the tiny real language models trained on them."""

from pathlib import Path


def models_dir() -> Path:
    """Folder of the packaged weights: one Hugging Face model folder each for `small` and `large`."""
    return Path(__file__).resolve().parent / "models"


def adapters_dir() -> Path:
    """Folder of the packaged task adapters of `small`: one folder each, in PEFT's format."""
    return Path(__file__).resolve().parent / "adapters"
