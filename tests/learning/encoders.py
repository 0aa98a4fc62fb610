"""A tiny encoder in Hugging Face's format with random weights: no download, and fast."""

from pathlib import Path
from typing import Any

from serve_app.learning.scratch_encoder import learned_tokenizer
from tests.learning.data import sums


def save_encoder(folder: Path, kind: str = "bert", layers: int = 3) -> Path:
    """Write config, weights and tokenizer of a random encoder of width 32; `kind` is bert or distilbert."""
    import torch
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    tokenizer = learned_tokenizer([query.text for query in sums(300, seed=1).queries])
    size: dict[str, Any] = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "bert":
            config = BertConfig(
                hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=64, **size
            )
            model: Any = BertModel(config, add_pooling_layer=False)
        else:
            model = DistilBertModel(DistilBertConfig(dim=32, n_layers=layers, n_heads=2, hidden_dim=64, **size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
