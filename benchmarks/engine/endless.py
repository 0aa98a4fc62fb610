"""A model that never ends its text by itself, so that every answer has the requested length (vLLM's `ignore_eos`)."""

import json
import shutil
from pathlib import Path

_NO_TOKEN = 2**30
"""An id that no vocabulary holds."""


def endless(folder: Path, target: Path) -> Path:
    """A copy of the model's folder in which no token ends a text. Raises FileNotFoundError if it is no such folder."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no model there; give a folder in Hugging Face format, lab:small or lab:large"
        )
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    path = target / "generation_config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**settings, "eos_token_id": _NO_TOKEN}))
    return target
