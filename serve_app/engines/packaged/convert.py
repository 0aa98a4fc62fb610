"""A GGUF file as a folder in Hugging Face format: `python -m serve_app.engines.packaged.convert FILE FOLDER`.

transformers reads the file, dequantizes its tensors and makes the tokenizer of its vocabulary; a model loaded so cannot
be saved as it is, so the weights move into a fresh model of the same config. Saved as bfloat16: the file's own 4 bits
hold less. Needs the extra `assistant`.
"""

import sys
from pathlib import Path
from typing import Any


def convert(source: Path, folder: Path) -> None:
    """Write config, tokenizer, chat template and `model.safetensors` into a new folder.

    The same file gives the same bytes. Raises what transformers raises for a file that it cannot read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **where)
    read = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **where)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(read.state_dict(), strict=False)
    if set(missing) - set(getattr(model, "_tied_weights_keys", None) or ()) or unexpected:
        raise ValueError(f"{source}: the weights do not fit their config: {[*missing, *unexpected][:3]}")
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str]) -> int:
    """Exit status 2 and a line of usage for anything but a file and a folder that does not exist yet."""
    if len(arguments) != 2 or not Path(arguments[0]).is_file() or Path(arguments[1]).exists():
        print("usage: python -m serve_app.engines.packaged.convert FILE.gguf NEW_FOLDER", file=sys.stderr)
        return 2
    convert(Path(arguments[0]), Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
