"""The base model of an adapter: a folder, or one of the lab's, with its tokenizer, loaded from safetensors alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serve_app.errors import ConfigError, needs_extra
from serve_app.lab import models_dir

LAB: Final = "lab:"
_POSITIONS: Final = 2048
"""Tokens of a row at most where the model's configuration does not say how many it can read."""


@dataclass(frozen=True, slots=True)
class TuningBase:
    """`name` as adapters are bound to it, the folder, the model in evaluation mode and its tokenizer."""

    name: str
    folder: Path
    model: Any
    tokenizer: Any

    @property
    def stops(self) -> frozenset[int]:
        """Ids of the tokens that end an answer."""
        given = self.model.generation_config.eos_token_id
        ids = given if isinstance(given, list) else [given]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @property
    def positions(self) -> int:
        """Tokens that it can read."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or _POSITIONS)

    @property
    def filler(self) -> int:
        """Id of padding: any will do, since nothing attends to it and it carries no loss."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else min(self.stops, default=0))


def base_folder(base: str) -> Path:
    """The folder of `lab:NAME` or of a path. Raises ConfigError if there is no model in it."""
    folder = models_dir() / base.removeprefix(LAB) if base.startswith(LAB) else Path(base).expanduser()
    if not (folder / "config.json").is_file():
        hint = (
            "use lab:small, or train it with `jethro lab build`" if base.startswith(LAB) else "give the folder of one"
        )
        raise ConfigError(f"base {base}: no model in {folder}; {hint}")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"base {base}: no weights in *.safetensors in {folder}; save the model with save_pretrained")
    return folder


def load_base(base: str, name: str | None = None, device: str | None = None) -> TuningBase:
    """The base model of an adapter. `device` is any that torch names, by default a GPU if there is one.

    On a CPU weights are float32, on a GPU bfloat16. `name`: by default `base` if it is the lab's, else the folder's.
    No code of the folder's is run. Raises ConfigError naming the folder and what to do.
    """
    folder = base_folder(base)
    with needs_extra("training adapters needs torch and transformers", "train"):
        import torch
        import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.float32 if place == "cpu" else torch.bfloat16
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, use_safetensors=True, output_loading_info=True
        )
        model = model.eval().to(place)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
        raise ConfigError(f"base {base}: cannot be loaded ({e}); save it again with save_pretrained") from e
    if missing := loaded["missing_keys"]:
        raise ConfigError(f"base {base}: the weights lack {min(missing)} and would be random; save the whole model")
    return TuningBase(name or (base if base.startswith(LAB) else folder.name), folder, model, tokenizer)
