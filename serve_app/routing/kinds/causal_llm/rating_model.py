"""A causal language model that rates a question: probabilities of the tokens 1 to 5 after an instruction.

How it is fine-tuned is in `rating_training`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.errors import ConfigError, needs_extra

RATINGS = ("1", "2", "3", "4", "5")
INSTRUCTION = "rate 1 (fails) to 5 (sure to be good) how well a small model answers this:\n{question}\nrating:"
"""Short, as a model whose tokens are characters reads every letter of it."""
_ROWS = 16
"""Prompts in one forward pass, those of similar length together."""
_HASHED_BYTES = 256 * 2**20
"""Files up to this size are hashed when a folder is read; of larger ones the size is compared."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """For n questions: chances of the five ratings among themselves [n, 5], and whether the likeliest token is one."""

    chances: Floats
    parsable: NDArray[np.bool_]


class RatingModel:
    """Any Hugging Face causal model of a folder, in single precision unless it was saved otherwise.

    The question's end is kept where prompt and instruction would exceed `max_tokens` (or the model's context); the
    chat template is used where there is one. Raises ConfigError for a folder without a model, or for a tokenizer in
    which a rating is more than one token; DependencyError without torch and transformers.
    """

    def __init__(self, folder: Path, instruction: str = INSTRUCTION, max_tokens: int = 512) -> None:
        if instruction.count("{question}") != 1:
            raise ConfigError("causal_llm: the instruction must hold {question} once, where the question goes")
        self.folder = folder
        self.instruction = instruction
        self.max_tokens = max_tokens
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            raise ConfigError(f"causal_llm: {folder}: give a folder with config.json and *.safetensors")

    def rate(self, questions: Sequence[str]) -> Ratings:
        """Ratings of the questions by the next token's logits."""
        import torch

        rows = [self.tokens(q) for q in questions]
        logits = np.zeros((len(rows), len(RATINGS)))
        parsable = np.zeros(len(rows), dtype=bool)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        with torch.inference_mode():
            for start in range(0, len(order), _ROWS):
                at = order[start : start + _ROWS]
                found = self.next_logits([rows[i] for i in at]).float().cpu()
                logits[at] = found[:, self.rating_ids].numpy()
                parsable[at] = np.isin(found.argmax(1).numpy(), self.rating_ids)
        weights = np.exp(logits - logits.max(1, initial=-np.inf, keepdims=True))
        return Ratings(weights / weights.sum(1, keepdims=True), parsable)

    def tokens(self, question: str) -> list[int]:
        """The prompt's token ids."""
        room = self._limit - len(self._prompt(""))
        text = question.encode("utf-8", "replace").decode("utf-8")  # no lone surrogates
        text = text[-4 * 16 * max(room, 1) :]  # a token has rarely more letters than that
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) > room:
            text = self.tokenizer.decode(ids[len(ids) - room :]) if room > 0 else ""
        whole = self._prompt(text)
        return whole[:1] + whole[len(whole) - self._limit + 1 :] if len(whole) > self._limit else whole

    def next_logits(self, rows: Sequence[Sequence[int]]) -> Any:
        """Logits of the token after each row, shape [rows, vocabulary], as a torch tensor."""
        import torch

        width = max(map(len, rows))
        padded = torch.tensor([[self._pad] * (width - len(r)) + list(r) for r in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        found = self.model(
            input_ids=padded, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
        )
        return found.logits[:, -1]

    @cached_property
    def rating_ids(self) -> list[int]:
        """The five token ids."""
        found = [self.tokenizer(r, add_special_tokens=False).input_ids for r in RATINGS]
        if any(len(ids) != 1 for ids in found) or len({ids[0] for ids in found}) != len(RATINGS):
            raise ConfigError(f"causal_llm: {self.folder}: a rating is more than one token there; give another model")
        return [ids[0] for ids in found]

    @cached_property
    def model(self) -> Any:
        """The network, on the accelerator if there is one."""
        model = _transformers().AutoModelForCausalLM.from_pretrained(self.folder, use_safetensors=True)
        return model.to(self.device).eval()

    @cached_property
    def tokenizer(self) -> Any:
        """The model's own."""
        return _transformers().AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def device(self) -> str:
        """Where the network runs."""
        _transformers()
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def ready(self) -> None:
        """Load everything now, so that the first question does not wait for it."""
        self.next_logits([self.tokens("?")])

    def save(self, directory: Path) -> dict[str, list[Any]]:
        """Write model and tokenizer. Returns size and hash by file name, for `check_files`."""
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory) as fresh:
            self.model.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            names = sorted(file.name for file in Path(fresh).iterdir())
            for name in names:
                (Path(fresh) / name).replace(directory / name)
                (directory / name).chmod(0o644)  # weights are written readable by their owner only
        return {name: _stamp(directory / name) for name in names}

    @cached_property
    def _limit(self) -> int:
        context = getattr(self.model.config, "max_position_embeddings", None) or self.max_tokens
        return min(self.max_tokens, int(context))

    @cached_property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    def _prompt(self, question: str) -> list[int]:
        text = self.instruction.replace("{question}", question)
        if self.tokenizer.chat_template is None:
            ids: list[int] = self.tokenizer(text).input_ids
            return ids
        turns = [{"role": "user", "content": text}]
        chat = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(chat, add_special_tokens=False).input_ids
        return ids


def check_files(directory: Path, files: Mapping[str, Sequence[Any]]) -> None:
    """Compare a folder's files with what `save` returned. Raises ConfigError naming the one that differs."""
    for name, stamp in files.items():
        path = directory / name
        if Path(name).name != name or not path.is_file() or _stamp(path) != list(stamp):
            raise ConfigError(f"{path}: is not what was saved; train and save the router again")


def _stamp(path: Path) -> list[Any]:
    size = path.stat().st_size
    return [size, "" if size > _HASHED_BYTES else hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()]


def _transformers() -> Any:
    with needs_extra("causal_llm needs transformers and torch", "transformers"):
        import transformers
    return transformers
