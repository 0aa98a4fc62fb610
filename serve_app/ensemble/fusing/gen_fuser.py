"""GenFuser: a sequence-to-sequence model that writes one answer out of the best candidates.

Jiang et al. 2023 (LLM-Blender, arXiv 2306.02561), section 5. Any Hugging Face encoder-decoder (Flan-T5 in the paper),
or a small T5 made from nothing. Departures from the original:

- No candidate is cut (see `sequence`); where two do not fit whole, the best one is the answer, with the reason.
- An answer may be twice as long as the longest candidate in it. One that has no end by then is not given out cut: the
  best candidate is the answer, with the reason.

A fuser is a folder: the model and its tokenizer as Hugging Face saves them, weights as safetensors, and `fuser.json`:

    {"kind": "fuser", "format": 1, "version": "genfuser-<hash of weights, tokenizer, config and form>",
     "form": {"top": 3, "max_tokens": 1024, "source": "...", "candidate": "...", "order": "..."},
     "data": {"rows": 5000, ...}}
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, Final, Self

from serve_app.ensemble.base import Fused
from serve_app.ensemble.fusing.sequence import FuserInput, FuserTokenizer, FusionForm, add_sentinels
from serve_app.errors import ConfigError, writing
from serve_app.files import write_whole
from serve_app.learning.saved_folder import read_json
from serve_app.learning.seq2seq import Seq2Seq, libraries, load_seq2seq

FILE: Final = "fuser.json"
FORMAT: Final = 1
_KIND: Final = "fuser"
_KEYS: Final = frozenset({"kind", "format", "version", "form", "data"})
_REMEDY: Final = "give the folder of a fuser; `jethro ensemble train-fuser` writes one"
_UNSAVED: Final = "genfuser-unsaved"
_ROWS: Final = 32
_TOKENS: Final = 16_384
"""Rows, and input tokens with padding, of one pass."""
_GROWTH: Final = 2
_SLACK: Final = 16
"""Tokens of an answer: at most so many times those of the longest candidate, and so many more."""
_BLOCK: Final = 1 << 22


class GenFuser:
    """A fuser in memory. Safe to call from several threads; one computes."""

    def __init__(self, parts: Seq2Seq, form: FusionForm, version: str = _UNSAVED, beams: int = 1) -> None:
        self.parts, self.form, self.beams = parts, form, beams
        self.tokens = FuserTokenizer(parts.tokenizer, form, parts.positions("encoder"))
        self._version = version
        self._lock = Lock()

    @property
    def version(self) -> str:
        """`genfuser-<hash>` of a fuser that is in a folder."""
        return self._version

    @classmethod
    def load(cls, folder: Path, device: str | None = None) -> Self:
        """The fuser in a folder. Raises ConfigError naming the file and what to do.

        A plain model without `fuser.json` is read with the default form. On a GPU it computes in bfloat16.
        """
        form, version = FusionForm(), None
        if (folder / FILE).exists():
            body = read_json(folder / FILE, kind=_KIND, version=FORMAT, remedy=_REMEDY)
            if set(body) != _KEYS:
                raise ConfigError(f"{folder / FILE}: must have exactly the keys {', '.join(sorted(_KEYS))}")
            form, version = FusionForm.of(body["form"], str(folder / FILE)), str(body["version"])
        parts = load_seq2seq(folder, device)
        found = _version_of(folder, form)
        if version is not None and version != found:
            raise ConfigError(
                f"{folder / FILE}: version is {version!r}, but the files are {found}: they were changed; train the "
                "fuser again, or copy its whole folder"
            )
        if parts.model.device.type == "cuda":
            parts.model.bfloat16()
        return cls(parts, form, found)

    @classmethod
    def start(cls, folder: Path, form: FusionForm, device: str | None = None, seed: int = 0) -> Self:
        """A fuser to be trained, from any seq2seq model; sentinels that it lacks are added with random vectors."""
        import torch

        parts = load_seq2seq(folder, device)
        add_sentinels(parts.tokenizer, form)
        if len(parts.tokenizer) > parts.model.get_input_embeddings().num_embeddings:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                parts.model.resize_token_embeddings(len(parts.tokenizer), mean_resizing=False)
        return cls(parts, form)

    def fuse(self, sources: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[Fused]:
        """One answer a source, from its candidates, the best first. Requests of like length share passes.

        Raises ValueError for a source without candidates.
        """
        if any(not own for own in candidates):
            raise ValueError("a source has no candidates")
        inputs = [self.tokens.input(source, own) for source, own in zip(sources, candidates, strict=True)]
        found = [Fused(own[0], reason=i.reason) for own, i in zip(candidates, inputs, strict=True)]
        for rows in batches_by_length([len(i.ids) for i in inputs], _ROWS, _TOKENS):
            for row, fused in zip(rows, self._fused([inputs[r] for r in rows]), strict=True):
                found[row] = fused if fused.used else Fused(candidates[row][0], reason=fused.reason)
        return found

    def save(self, folder: Path, data: Mapping[str, Any]) -> None:
        """Write the folder, whole or not at all. Raises ConfigError if there is one, or it cannot be written."""
        if folder.exists():
            raise ConfigError(f"{folder}: exists already; give another folder, or move it away")
        part = folder.with_name(f".{folder.name}-{os.getpid()}.part")
        with writing(folder, "give a folder that can"):
            part.mkdir(parents=True)
            try:
                self.parts.model.save_pretrained(part, safe_serialization=True)
                self.parts.tokenizer.save_pretrained(part)
                for path in part.iterdir():
                    path.chmod(0o644)  # safetensors leaves weights that their owner alone may read
                self._version = _version_of(part, self.form)
                body = {"kind": _KIND, "format": FORMAT, "version": self._version, "form": self.form.to_json()}
                text = json.dumps(body | {"data": dict(data)}, indent=1, ensure_ascii=False, allow_nan=False)
                write_whole(part / FILE, f"{text}\n".encode())
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def _fused(self, inputs: Sequence[FuserInput]) -> Iterator[Fused]:
        """The answers; without `used` where there is none, for the reason given."""
        torch, transformers = libraries()
        model, tokenizer = self.parts.model, self.parts.tokenizer
        ids, mask = self.parts.padded([i.ids for i in inputs], tokenizer.pad_token_id)
        most = min(_GROWTH * max(i.longest for i in inputs) + _SLACK, self.parts.positions("decoder") - 1)
        with self._lock, torch.inference_mode():
            written = model.generate(
                input_ids=ids,
                attention_mask=mask,
                # transformers makes a T5's own cache as deep as its encoder, which its decoder need not be
                past_key_values=transformers.EncoderDecoderCache(
                    transformers.DynamicCache(), transformers.DynamicCache()
                ),
                max_new_tokens=most,
                num_beams=self.beams,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        for own, row in zip(inputs, written[:, 1:].tolist(), strict=True):
            text = self.tokens.text(row)
            if tokenizer.eos_token_id not in row:
                yield Fused("", reason=f"the fused answer has no end within {most} tokens")
            elif not text:
                yield Fused("", reason="the fused answer is empty")
            else:
                yield Fused(text, own.used)


def batches_by_length(lengths: Sequence[int], rows: int, tokens: int) -> Iterator[list[int]]:
    """Positions of rows of like length, at most `rows` and `tokens` with padding a batch; empty rows are in none."""
    batch: list[int] = []
    for row in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: lengths[i]):
        if batch and (len(batch) == rows or (len(batch) + 1) * lengths[row] > tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class FuserSize:
    """Shape of a T5 that is made from nothing: its width, layers of encoder and of decoder, and heads of 32."""

    width: int = 64
    layers: int = 3
    heads: int = field(default=0)
    feed_forward: int = field(default=0)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 32 or self.width % 32 or self.layers < 1:
            raise ConfigError(
                f"a fuser {self.width} wide with {self.layers} layers: give a multiple of 32, and 1 layer"
            )


def new_fuser(size: FuserSize, tokenizer: Any, form: FusionForm | None = None, seed: int = 0) -> GenFuser:
    """A fuser with random weights over a tokenizer, which gets the sentinels; the same seed gives the same.

    The default form has no words, as a model of characters takes it.
    """
    torch, transformers = libraries()
    form = form or FusionForm.bare()
    add_sentinels(tokenizer, form)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=size.width,
        d_kv=32,
        d_ff=size.feed_forward or 4 * size.width,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        num_heads=size.heads or size.width // 32,
        dropout_rate=size.dropout,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.T5ForConditionalGeneration(config)
    return GenFuser(Seq2Seq(model.eval(), tokenizer), form)


def _version_of(folder: Path, form: FusionForm) -> str:
    """A hash of the files that decide, and of the form."""
    digest = blake2b(json.dumps(form.to_json(), sort_keys=True).encode(), digest_size=5)
    deciding = [*folder.glob("*.safetensors"), *folder.glob("tokenizer*.json"), *folder.glob("*.model")]
    for path in sorted([*deciding, folder / "config.json", folder / "generation_config.json"]):
        if not path.exists():
            continue
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return f"genfuser-{digest.hexdigest()}"
