"""A tiny encoder in Hugging Face's format with random weights: no download, and fast."""

from pathlib import Path
from typing import Any

from serve_app.learning.scratch_encoder import learned_tokenizer
from tests.data.samples import sums


def save_encoder(folder: Path, kind: str = "bert", layers: int = 3) -> Path:
    """Write config, weights and tokenizer of a random encoder of width 32; `kind` is a key of `_made`."""
    import torch

    tokenizer = learned_tokenizer([query.text for query in sums(300, seed=1).queries])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _made(kind, layers, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _made(kind: str, layers: int, pieces: int) -> Any:
    import transformers

    size = {"vocab_size": pieces, "max_position_embeddings": 64}
    usual = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64, **size}
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**usual), add_pooling_layer=False)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(dim=32, n_layers=layers, n_heads=2, hidden_dim=64, **size)
        return transformers.DistilBertModel(config)
    if kind == "deberta":
        relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
        return transformers.DebertaV2Model(transformers.DebertaV2Config(**usual, **relative))
    return transformers.AlbertModel(transformers.AlbertConfig(**usual, embedding_size=32), add_pooling_layer=False)
