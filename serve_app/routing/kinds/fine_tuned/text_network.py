"""An encoder with a linear head over its mean token vector: any Hugging Face encoder, trained whole or in part.

`finetune` trains it and `text_classifier` serves and stores it. `FrozenStates` caches the output of the frozen layers,
because compared routers, and the folds of one, train on the same texts above the same frozen layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from serve_app.errors import ConfigError, needs_extra

_CHARACTERS_A_TOKEN = 16
"""A text is cut to so many characters for each token that is kept, before it is split into tokens at all."""


class TextNetwork:
    """Class logits of texts, from the mean of the last layer's token vectors.

    `trained_layers` of the encoder's layers, counted from its end, may be trained; None trains all of it. What lies
    below is frozen, so that its output for a text can be computed once (`below`) and reused (`logits_above`). A text
    beyond `max_tokens` keeps its end.
    """

    folder: Path | None
    """Of the pretrained encoder; None for one made in memory."""

    def __init__(self, folder: Path, classes: int, trained_layers: int | None, max_tokens: int) -> None:
        torch, transformers = _libraries()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, truncation_side="left")
        self.folder = folder
        self.body = transformers.AutoModel.from_pretrained(folder, use_safetensors=True).eval()
        self._finish(torch, classes, trained_layers, max_tokens)

    @classmethod
    def of(cls, body: Any, tokenizer: Any, classes: int, max_tokens: int) -> TextNetwork:
        """A network over a model in memory, all of it to train."""
        network = cls.__new__(cls)
        network.folder = None
        network.tokenizer, network.body = tokenizer, body.eval()
        network._finish(_libraries()[0], classes, None, max_tokens)
        return network

    def _finish(self, torch: Any, classes: int, trained_layers: int | None, max_tokens: int) -> None:
        self.classes = classes
        most = (self.body.config.max_position_embeddings, self.tokenizer.model_max_length)
        self.max_tokens = int(min(max_tokens, *most))
        self.width = int(self.body.config.hidden_size)
        self.head = torch.nn.utils.skip_init(torch.nn.Linear, self.width, classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self._given: Any = None
        self._owner: Any = None
        self._attribute, self._cut = "", 0
        self._layers: list[Any] = []
        self.body.requires_grad_(trained_layers is None)
        if trained_layers is not None:
            self._owner, self._attribute, self._layers = _layers_of(torch, self.body)
            if not 1 <= trained_layers <= len(self._layers):
                raise ConfigError(f"train_layers is {trained_layers}: this encoder has {len(self._layers)} layers")
            self._cut = len(self._layers) - trained_layers
            for layer in self._layers[self._cut :]:
                layer.requires_grad_(True)

    @property
    def frozen_below(self) -> bool:
        """Whether `below` and `logits_above` may be used."""
        return self._cut > 0

    @property
    def frozen_part(self) -> tuple[Path | None, int, int]:
        """Names what lies below the trained part: networks of the same one share what `below` gives."""
        return self.folder, self._cut, self.max_tokens

    def trained(self) -> dict[str, Any]:
        """Parameters that training changes, by name, as they are stored."""
        body = {f"body.{name}": p for name, p in self.body.named_parameters() if p.requires_grad}
        return {**body, **{f"head.{name}": p for name, p in self.head.named_parameters()}}

    def train(self, on: bool) -> None:
        """Dropout in the trained part, or none anywhere."""
        self.body.eval()
        for part in self._layers[self._cut :] if self._layers else [self.body]:
            part.train(on)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, the last `max_tokens` of them, specials included."""
        kept = _CHARACTERS_A_TOKEN * self.max_tokens
        readable = [text[-kept:].encode("utf-8", "replace").decode() for text in texts]
        found: list[list[int]] = self.tokenizer(readable, truncation=True, max_length=self.max_tokens)["input_ids"]
        return found

    def logits(self, rows: Sequence[list[int]]) -> Any:
        """Tensor [len(rows), classes]."""
        inputs = self._inputs(rows)
        return self._pooled(self.body(**inputs).last_hidden_state, inputs["attention_mask"])

    def below(self, rows: Sequence[list[int]]) -> list[Any]:
        """What the frozen part gives for each row: a tensor [tokens, width] each, without padding."""
        import torch

        caught: list[Any] = []

        def catch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _Caught

        hook = self._layers[self._cut].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with torch.no_grad():
                self.body(**self._inputs(rows))
        except _Caught:
            pass
        finally:
            hook.remove()
        return [states[: len(row)].clone() for states, row in zip(caught[0], rows, strict=True)]

    @contextmanager
    def above_only(self) -> Iterator[None]:
        """Inside, the frozen layers are taken out and `logits_above` may be called."""
        import torch

        def give(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (self._given, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": self._given}

        whole = getattr(self._owner, self._attribute)
        hook = self._layers[self._cut].register_forward_pre_hook(give, with_kwargs=True)
        setattr(self._owner, self._attribute, torch.nn.ModuleList(self._layers[self._cut :]))
        try:
            yield
        finally:
            hook.remove()
            setattr(self._owner, self._attribute, whole)

    def logits_above(self, rows: Sequence[list[int]], states: Sequence[Any]) -> Any:
        """`logits`, from what `below` gave for the same rows."""
        import torch

        self._given = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        return self.logits(rows)

    def _inputs(self, rows: Sequence[list[int]]) -> Any:
        import torch

        width = max(len(row) for row in rows)
        filler = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}

    def _pooled(self, hidden: Any, mask: Any) -> Any:
        weights = mask[:, :, None].to(hidden.dtype)
        return self.head((hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0))


class _Caught(Exception):
    """Ends a forward pass once the states are caught."""


def _layers_of(torch: Any, body: Any) -> tuple[Any, str, list[Any]]:
    """The list of the encoder's layers: its owner, its name there, and the layers."""
    count = getattr(body.config, "num_hidden_layers", None)
    for owner in body.modules():
        for name, part in owner.named_children():
            if isinstance(part, torch.nn.ModuleList) and len(part) == count:
                return owner, name, list(part)
    raise ConfigError(f"{type(body).__name__} has no list of {count} layers: train all of it (train_layers: null)")


def _libraries() -> tuple[Any, Any]:
    with needs_extra("encoders need transformers and torch", "encoders"):
        import torch
        import transformers
    transformers.utils.logging.disable_progress_bar()  # no bar for every load of a small model
    return torch, transformers


BYTES = 1 << 30
"""Size of all states that are kept."""
_ROWS = 128


class FrozenStates:
    """States by token ids, of the most recent frozen part, up to BYTES. Safe to call from several threads."""

    def __init__(self) -> None:
        self._part: object = None
        self._kept: dict[tuple[int, ...], Any] = {}
        self._lock = Lock()

    def of(self, network: TextNetwork, rows: Sequence[list[int]]) -> list[Any] | None:
        """A tensor [tokens, width] for each row; None if nothing is frozen or they would be too many to keep."""
        if not network.frozen_below or 4 * network.width * sum(map(len, rows)) > BYTES:
            return None
        with self._lock:
            if self._part != network.frozen_part:
                self._part, self._kept = network.frozen_part, {}
            missing = sorted({tuple(row) for row in rows} - self._kept.keys(), key=lambda row: (len(row), row))
            size = sum(map(len, self._kept)) + sum(map(len, missing))
            if 4 * network.width * size > BYTES:
                self._kept = {}
                missing = sorted({tuple(row) for row in rows}, key=lambda row: (len(row), row))
            for start in range(0, len(missing), _ROWS):
                batch = missing[start : start + _ROWS]
                self._kept.update(zip(batch, network.below([list(row) for row in batch]), strict=True))
            return [self._kept[tuple(row)] for row in rows]


states = FrozenStates()
"""Shared by the whole process."""
