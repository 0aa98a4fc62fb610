"""A causal language model that rates a question: probabilities of the tokens 1 to 5 after an instruction.

It is fine-tuned by cross-entropy on that token. All weights are trained, as RouteLLM does with Llama-3-8B (Ong et al.
2024, section 4.2), so the model must fit in memory.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
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


_HELD_BACK = 10
"""One distinct question in so many is held back to choose the best epoch."""
_PATIENCE = 2
"""Epochs without a better loss after which training stops."""
_WARM_UP = 0.1
_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class RatingRecipe:
    """How long, how fast and in what portions; `seed` is that of the order."""

    epochs: int
    learning_rate: float
    batch: int
    seed: int


def train_ratings(
    model: RatingModel,
    questions: Sequence[str],
    ratings: NDArray[np.int64],
    recipe: RatingRecipe,
    report: Callable[[str], None],
) -> int:
    """Train the model in place on ratings 1 to 5 of shape [n]; returns the epoch of its final weights.

    That is the one with the least loss on questions held back by their hash, or the last where none is.
    """
    import torch

    rows = [model.tokens(q) for q in questions]
    keys = [zlib.crc32(f"{recipe.seed}\n{q}".encode("utf-8", "surrogatepass")) % _HELD_BACK for q in questions]
    outside = np.flatnonzero(np.array(keys) == 0)
    inside = np.flatnonzero(np.array(keys) != 0) if len(outside) < len(rows) else outside
    targets = torch.tensor(model.rating_ids)[torch.from_numpy(ratings - 1)]
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate)
    steps = recipe.epochs * -(-len(inside) // recipe.batch)
    course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    best: dict[str, Any] = {}
    best_loss, best_epoch = float("inf"), 0
    for epoch in range(1, recipe.epochs + 1):
        learned = 0.0
        for at in _batches(inside, rows, recipe, epoch):
            loss = _loss(model, [rows[i] for i in at], targets[at])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
            optimizer.step()
            course.step()
            learned += float(loss.detach()) * len(at)
        outside_loss = _mean_loss(model, rows, targets, outside, recipe.batch)
        report(f"epoch {epoch} of {recipe.epochs}: loss {learned / len(inside):.4f}, held back {outside_loss:.4f}")
        if not outside_loss >= best_loss:  # nan, nothing held back: the last one
            best_loss, best_epoch = outside_loss, epoch
            best = {name: tensor.detach().clone() for name, tensor in model.model.state_dict().items()}
        elif epoch - best_epoch >= _PATIENCE:
            break
    model.model.load_state_dict(best)
    return best_epoch


def _pace(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, then linear decay to 0."""
    rising = max(1, round(_WARM_UP * steps))
    return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))


def _batches(inside: NDArray[np.int64], rows: list[list[int]], recipe: RatingRecipe, epoch: int) -> list[Any]:
    """Questions of similar length together, in random batches and order."""
    rng = np.random.default_rng([recipe.seed, epoch])
    lengths = np.array([len(rows[i]) for i in inside])
    order = inside[np.argsort(lengths + rng.random(len(inside)) * 8, kind="stable")]
    batches = [order[start : start + recipe.batch] for start in range(0, len(order), recipe.batch)]
    rng.shuffle(batches)
    return batches


def _mean_loss(model: RatingModel, rows: list[list[int]], targets: Any, at: NDArray[np.int64], batch: int) -> float:
    import torch

    if len(at) == 0:
        return float("nan")
    parts = [at[start : start + batch] for start in range(0, len(at), batch)]
    with torch.inference_mode():
        total = sum(float(_loss(model, [rows[i] for i in part], targets[part])) * len(part) for part in parts)
    return total / len(at)


def _loss(model: RatingModel, rows: list[list[int]], targets: Any) -> Any:
    """Over the whole vocabulary: the model must also learn to answer with nothing but a rating."""
    import torch

    logits = model.next_logits(rows).float()
    return torch.nn.functional.cross_entropy(logits, targets.to(logits.device))
