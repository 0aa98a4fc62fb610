"""The folder of a saved ranker: its encoder, head and tokenizer, and a JSON file that says what they are.

    ranker.json           shape (form, metrics, lengths, joint layers), prior of models and digest
    config.json           the encoder's shape, in Hugging Face's format
    weights.safetensors   encoder and head, in half precision
    tokenizer files       in Hugging Face's format, special tokens included

It needs no other folder and no download, and holds no code: nothing is unpickled. Tensors must match exactly.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from serve_app.ensemble.ranking.model_prior import ModelPrior
from serve_app.ensemble.ranking.network import NetworkShape, RankingNetwork
from serve_app.ensemble.ranking.sequence import Lengths, SequenceTokenizer
from serve_app.errors import ConfigError, needs_extra, reading
from serve_app.files import replacing, write_whole
from serve_app.learning.encoder import encoder_folder
from serve_app.learning.scratch_encoder import Shape, fresh_encoder, learned_tokenizer

FORMAT = 1
FILE, WEIGHTS = "ranker.json", "weights.safetensors"
_REMEDY = "give the folder of a saved ranker, or train it again"
_SPREAD = 0.5
"""Standard deviation of the noise on new embeddings, in that of the others."""


def new_network(encoder: str, shape: NetworkShape, seed: int, texts: Sequence[str] = ()) -> RankingNetwork:
    """A network over a pretrained encoder: `minilm`, or the folder of a Hugging Face encoder.

    `small-from-scratch`, or `scratch-3x64`: a BERT with random weights and word pieces learned from `texts`. The
    special tokens' embeddings start at that of the opening token, with a little noise. The same seed gives the same
    head. Raises ConfigError or DependencyError for an encoder that is not there.
    """
    transformers = _transformers()
    if (scratch := Shape.named(encoder)) is not None:
        tokenizer = learned_tokenizer(texts)
        body = fresh_encoder(scratch, len(tokenizer), shape.most_tokens, seed)
    else:
        folder = encoder_folder(encoder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        body = transformers.AutoModel.from_pretrained(folder, use_safetensors=True)
    tokens = SequenceTokenizer(tokenizer, shape.lengths)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # nothing reads it
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        known = body.get_input_embeddings().num_embeddings
        body.resize_token_embeddings(max(len(tokens), known), mean_resizing=False)
        table = body.get_input_embeddings().weight
        spread = _SPREAD * table[:known].std()
        for row in tokens.special:
            table[row] = table[tokens.opening] + spread * torch.randn(table.shape[1])
        torch.manual_seed(seed)
        return RankingNetwork(body, tokens, shape).eval()


def round_weights(network: RankingNetwork) -> None:
    """Weights as they are stored, in half precision: a loaded ranker scores as the trained one did."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())


def stored_weights(network: RankingNetwork) -> bytes:
    """The weights file."""
    from safetensors.torch import save

    return save({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()})


def save_network(
    network: RankingNetwork, weights: bytes, prior: ModelPrior | None, about: Mapping[str, Any], folder: Path
) -> None:
    """Write the folder; `weights` as `stored_weights` made them, before any layer was narrowed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, weights)
    network.tokens.save(folder)
    network.body.config.save_pretrained(folder)
    body = {
        "format": FORMAT,
        "shape": asdict(network.shape),
        "prior": None if prior is None else asdict(prior),
        "digest": digest_of(network, weights, prior),
        "about": dict(about),
    }
    with replacing(folder / FILE) as part:
        part.write_text(json.dumps(body, indent=1) + "\n", "utf-8")


def load_network(folder: Path) -> tuple[RankingNetwork, bytes, ModelPrior | None, dict[str, Any]]:
    """The network, its weights file, the prior of models, and what was saved about it.

    Raises ConfigError naming the file and what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    with reading(folder / FILE, _REMEDY, ValueError, KeyError, TypeError, AttributeError):
        body = json.loads((folder / FILE).read_text("utf-8"))
        if body["format"] != FORMAT:
            raise ConfigError(f"{folder / FILE}: format {body['format']} is not {FORMAT}; train the ranker again")
        kept = body["shape"]
        shape = NetworkShape(**{**kept, "metrics": tuple(kept["metrics"]), "lengths": Lengths(**kept["lengths"])})
        digest, about, prior = str(body["digest"]), dict(body["about"]), _prior(body.get("prior"))
    transformers = _transformers()
    with reading(folder / WEIGHTS, _REMEDY, SafetensorError):
        raw = (folder / WEIGHTS).read_bytes()
        tensors = {name: tensor.float() for name, tensor in load(raw).items()}
    with reading(folder / "config.json", _REMEDY, Exception):  # the library raises bare exceptions
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = transformers.AutoModel.from_config(config)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    tokens = SequenceTokenizer(tokenizer, shape.lengths)
    network = RankingNetwork(encoder, tokens, shape).eval()
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        raise ConfigError(f"{folder / WEIGHTS}: holds other tensors than this ranker has; train the ranker again")
    network.load_state_dict(tensors, strict=True)
    if digest_of(network, raw, prior) != digest:
        raise ConfigError(f"{folder}: its files do not match its digest {digest}; copy or train the ranker again")
    return network, raw, prior, about


def digest_of(network: RankingNetwork, weights: bytes, prior: ModelPrior | None = None) -> str:
    """Hash of all that decides a score: weights, shape, how words become tokens, and the prior of models."""
    digest = hashlib.blake2b(weights, digest_size=8)
    digest.update(repr(network.shape).encode())
    digest.update(network.tokens.fingerprint())
    if prior is not None:
        digest.update(json.dumps(asdict(prior), sort_keys=True).encode())
    return digest.hexdigest()


def _prior(kept: Any) -> ModelPrior | None:
    """As it was saved; folders of earlier versions have none. Raises KeyError, TypeError or ValueError."""
    if kept is None:
        return None
    return ModelPrior(float(kept["scale"]), {str(model): float(own) for model, own in kept["strengths"].items()})


def _transformers() -> Any:
    with needs_extra("rankers need transformers and torch", "encoders"):
        import transformers
    transformers.utils.logging.disable_progress_bar()  # no bar for every load of a small model
    return transformers
