"""What a seq2seq fuser reads: the request, the best candidates, each with a sentinel token, and an order to merge them.

As in LLM-Blender (Jiang et al. 2023, arXiv 2306.02561, section 5) the parts are joined by the end token:

    Instruction: ... </s> Candidate 1: <extra_id_0> ... </s> Candidate 2: <extra_id_1> ... </s> <order> </s>

The original cuts each candidate to 128 tokens and the whole to 1,024. Here nothing is cut: the parts share one budget,
so that short candidates leave their room to long ones; what does not fit is left out whole (`chosen`). Text that looks
like a special token is read as plain text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from serve_app.errors import ConfigError

SENTINEL = "<extra_id_{}>"
FEWEST = 2
"""Distinct candidates without which there is nothing to fuse."""
_MOST_CANDIDATES = 100
"""T5's tokenizers have so many sentinels."""
_CHARACTERS = 64
"""A text with more characters than this for each token of the budget does not fit, and is not even tokenized."""


def chosen(sizes: Sequence[int], room: int) -> tuple[int, ...]:
    """Positions of the candidates, the best first, that share `room`: each in turn that still fits whole.

    Empty if the best one does not fit, or none fits with it.
    """
    taken, left = [], room
    for position, size in enumerate(sizes):
        if size <= left:
            taken.append(position)
            left -= size
        elif position == 0:
            return ()
    return tuple(taken) if len(taken) >= FEWEST else ()


def distinct(texts: Sequence[str]) -> tuple[int, ...]:
    """Positions of the texts that are not blank, each once, whatever white space is around them."""
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        if text.strip():
            first.setdefault(text.strip(), position)
    return tuple(first.values())


@dataclass(frozen=True, slots=True)
class FusionForm:
    """How a fuser's input is written: at most `top` candidates, `max_tokens` in all, and the words around the parts.

    In `candidate`, `{number}` counts the candidates from 1 and `{index}` from 0. A fuser is used with the form that it
    was trained with; the defaults here are ours. A character model takes empty words: they cost it room.
    """

    top: int = 3
    max_tokens: int = 1024
    source: str = "Instruction: "
    candidate: str = "Candidate {number}: "
    order: str = "Merge what is right in these candidates into one better answer to the instruction:"

    def __post_init__(self) -> None:
        if not FEWEST <= self.top <= _MOST_CANDIDATES:
            raise ConfigError(f"top is {self.top}: a fuser reads {FEWEST} to {_MOST_CANDIDATES} candidates")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be 1 or more")

    @classmethod
    def bare(cls, top: int = 3, max_tokens: int = 1024) -> Self:
        """No words, for a small model that is trained from nothing: its sentinels say all."""
        return cls(top, max_tokens, "", "", "")

    @classmethod
    def of(cls, body: Any, where: str) -> Self:
        """The form as `to_json` wrote it. Raises ConfigError naming `where`."""
        keys = [f.name for f in fields(cls)]
        if not isinstance(body, dict) or set(body) != set(keys):
            raise ConfigError(f"{where}: form must have exactly the keys {', '.join(keys)}")
        for name, default in asdict(cls()).items():
            if type(body[name]) is not type(default):
                raise ConfigError(f"{where}: form.{name} is {body[name]!r}; it must be like {default!r}")
        return cls(**body)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FuserInput:
    """Token ids, and the positions of the candidates in them; without ids, why nothing can be fused.

    `longest`: tokens of the longest candidate in it.
    """

    ids: tuple[int, ...] = ()
    used: tuple[int, ...] = ()
    longest: int = 0
    reason: str = ""


def add_sentinels(tokenizer: Any, form: FusionForm) -> None:
    """Give the tokenizer the sentinel tokens that it lacks; the model's embeddings must grow with it."""
    missing = [SENTINEL.format(i) for i in range(form.top) if _id_of(tokenizer, SENTINEL.format(i)) is None]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)


class FuserTokenizer:
    """Writes inputs and targets as token ids."""

    def __init__(self, tokenizer: Any, form: FusionForm, positions: int) -> None:
        self.tokenizer, self.form = tokenizer, form
        found = [_id_of(tokenizer, SENTINEL.format(i)) for i in range(form.top)]
        if None in found:
            raise ConfigError(
                f"the tokenizer has no {SENTINEL.format(found.index(None))}, and a fuser for {form.top} candidates "
                "needs it: train one from this model with `jethro ensemble train-fuser`"
            )
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end token; choose another model")
        self._sentinels = [int(i) for i in found if i is not None]
        self._room = min(form.max_tokens, positions)
        around = tokenizer("")["input_ids"]
        self._opening = [i for i in around[:-1] if i != tokenizer.eos_token_id]
        self._end = int(tokenizer.eos_token_id)
        self._source = self._plain(form.source)
        self._order = [*self._plain(form.order), self._end]
        labels = [form.candidate.replace("{number}", str(i + 1)).replace("{index}", str(i)) for i in range(form.top)]
        self._before = [
            [*self._plain(label), sentinel] for label, sentinel in zip(labels, self._sentinels, strict=True)
        ]

    def input(self, source: str, candidates: Sequence[str]) -> FuserInput:
        """The input for the candidates, the best first."""
        at = distinct(candidates)[: self.form.top]
        if len(at) < FEWEST:
            return FuserInput(reason="there are no two different candidates")
        if any(len(text) > _CHARACTERS * self._room for text in (source, candidates[at[0]])):
            return FuserInput(reason=f"the request or the best candidate is beyond the fuser's {self._room} tokens")
        head = [*self._opening, *self._source, *self._plain(source), self._end]
        texts = [self._candidate(candidates[position]) for position in at]
        left = self._room - len(head) - len(self._order)
        longest_label = max(map(len, self._before))
        picked = chosen([len(ids) + longest_label + 1 for ids in texts], left)
        if not picked:
            sizes = f"request {len(head)}, best candidate {len(texts[0])}, room {self._room} tokens"
            return FuserInput(reason=f"the best candidate does not fit the fuser together with another ({sizes})")
        parts = [[*self._before[i], *texts[p], self._end] for i, p in enumerate(picked)]
        ids = [*head, *(token for part in parts for token in part), *self._order]
        return FuserInput(tuple(ids), tuple(at[p] for p in picked), max(len(texts[p]) for p in picked))

    def target(self, text: str) -> list[int]:
        """What the model should write."""
        return [*self._opening, *self._plain(text), self._end]

    def text(self, ids: Sequence[int]) -> str:
        """What the model wrote, without special tokens and white space around it."""
        decoded: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return decoded.strip()

    def _candidate(self, text: str) -> list[int]:
        """Token ids; of a text that is too long to fit anyway as many as show it."""
        return [self._end] * (self._room + 1) if len(text) > _CHARACTERS * self._room else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        readable = text.encode("utf-8", "replace").decode()
        ids: list[int] = self.tokenizer(
            readable, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids


def _id_of(tokenizer: Any, token: str) -> int | None:
    """The id of a special token; None if there is none."""
    found = tokenizer.get_vocab().get(token)
    return None if found is None else int(found)
