"""What users of LLM-Blender know: one object that ranks, compares and fuses candidates of many inputs.

Names, arguments and defaults are those of its `Blender`. What differs, and why:

- A missing ranker or fuser raises ConfigError; LLM-Blender logs a warning and returns None.
- Inputs may have different numbers of candidates, so results are lists with one array an input.
- `batch_size` is the number of inputs whose comparisons share forward passes. It changes no result.
- A pair whose texts are equal has logit 0.
- In mode "[B,A]" LLM-Blender returns the logit that B is better; here every mode says whether A is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.ensemble.base import Fuser
from serve_app.ensemble.fusing.gen_fuser import GenFuser
from serve_app.ensemble.ranking.aggregation import order, ranks
from serve_app.ensemble.ranking.pair_ranker import PairRanker, RewardModel, load_ranker
from serve_app.errors import ConfigError

Mode = Literal["[A,B]", "[B,A]", "[A,B]+[B,A]"]
Reference = Literal["longest", "shortest", "median_length", "first", "last"]
Conversation = Sequence[Mapping[str, str]]
"""Turns with `role` and `content`, of USER and ASSISTANT in turn."""
_TURNS = "Finish the following conversation in each i-th turn by filling in <Response i> with your response."


class Blender:
    """See the module. Rankers and fusers are folders of `jethro ensemble train-ranker` and `train-fuser`."""

    def __init__(self) -> None:
        self._ranker: PairRanker | RewardModel | None = None
        self._fuser: Fuser | None = None

    def loadranker(self, ranker_path: Path | str) -> None:
        """Load the ranker of a folder. Raises ConfigError naming the file and what to do."""
        self._ranker = load_ranker(Path(ranker_path))

    def loadfuser(self, fuser_path: Path | str | Fuser) -> None:
        """Load the fuser of a folder, or take one that is in memory. Raises ConfigError, see `GenFuser.load`."""
        self._fuser = GenFuser.load(Path(fuser_path)) if isinstance(fuser_path, str | Path) else fuser_path

    @property
    def ranker(self) -> PairRanker | RewardModel:
        """The loaded ranker. Raises ConfigError without one."""
        if self._ranker is None:
            raise ConfigError("no ranker is loaded: call loadranker with the folder of a saved one first")
        return self._ranker

    @property
    def fuser(self) -> Fuser:
        """The loaded fuser. Raises ConfigError without one."""
        if self._fuser is None:
            raise ConfigError("no fuser is loaded: call loadfuser with the folder of a saved one first")
        return self._fuser

    def rank(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        return_scores: bool = False,
        batch_size: int = 8,
    ) -> list[NDArray[np.float64]]:
        """Ranks of each input's candidates, 1 for the best, equal ones sharing a rank; or their scores.

        Scores are MaxLogits over the number of candidates, as LLM-Blender's: the mean of logit(i, j) - logit(j, i).
        Instructions are put before the inputs without a space. Raises ConfigError for unequal lengths, and for an
        input without candidates.
        """
        found: list[NDArray[np.float64]] = []
        requests = _requests(inputs, candidates, instructions)
        for start in range(0, len(requests), _batch(batch_size)):
            part = requests[start : start + batch_size]
            scores = [s / len(s) for s in self.ranker.aggregated(part, "max_logits")]
            found += scores if return_scores else [ranks(s).astype(np.float64) for s in scores]
        return found

    def compare(
        self,
        inputs: Sequence[str],
        candidates_A: Sequence[str],
        candidates_B: Sequence[str],
        instructions: Sequence[str] | None = None,
        return_logits: bool = False,
        mode: Mode = "[A,B]+[B,A]",
    ) -> Floats | NDArray[np.bool_]:
        """Whether A is better than B for each input, shape [inputs]; with `return_logits` how surely.

        The logit of "[A,B]+[B,A]" is logit(A, B) - logit(B, A), of which swapping A and B changes the sign alone.
        """
        if len(candidates_A) != len(candidates_B):
            raise ConfigError(f"{len(candidates_A)} candidates A and {len(candidates_B)} candidates B: give as many")
        pairs = [[a, b] for a, b in zip(candidates_A, candidates_B, strict=True)]
        sources = [source for source, _ in _requests(inputs, pairs, instructions)]
        logits = np.zeros(len(sources))
        if mode not in ("[A,B]", "[B,A]", "[A,B]+[B,A]"):
            raise ConfigError(f"mode {mode!r}: give [A,B], [B,A] or [A,B]+[B,A]")
        if mode != "[B,A]":
            logits += self.ranker.logits([(s, a, b) for s, (a, b) in zip(sources, pairs, strict=True)])
        if mode != "[A,B]":
            logits -= self.ranker.logits([(s, b, a) for s, (a, b) in zip(sources, pairs, strict=True)])
        return logits if return_logits else logits > 0

    def rank_with_ref(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        return_scores: bool = False,
        ref_mode: Reference = "longest",
        ref_candidates: Sequence[str] | None = None,
    ) -> list[NDArray[np.float64]]:
        """Ranks or scores by one comparison of each candidate with a reference answer: `ref_candidates`, or one of
        each input's own candidates by `ref_mode`."""
        requests = _requests(inputs, candidates, instructions)
        references = (
            [_reference(texts, ref_mode) for _, texts in requests] if ref_candidates is None else ref_candidates
        )
        if len(references) != len(requests):
            raise ConfigError(f"{len(references)} reference candidates for {len(requests)} inputs: give one each")
        flat = [
            (source, text, reference)
            for (source, texts), reference in zip(requests, references, strict=True)
            for text in texts
        ]
        logits = self.ranker.logits(flat) - self.ranker.logits([(s, b, a) for s, a, b in flat])
        ends = np.cumsum([len(texts) for _, texts in requests])[:-1]
        scores = list(np.split(logits, ends)) if requests else []
        return scores if return_scores else [ranks(s).astype(np.float64) for s in scores]

    def get_best_of_n(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        pairrm_cmp_type: Literal["bubble", "full"] = "bubble",
        return_all: bool = False,
    ) -> list[str] | list[list[str]]:
        """The best candidate of each input; with `return_all` all of them, the best first (by the whole matrix).

        bubble: one pass of n - 1 comparisons; full: the whole matrix.
        """
        return self._of_n(_requests(inputs, candidates, instructions), pairrm_cmp_type, return_all, worst=False)

    def get_worst_of_n(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        pairrm_cmp_type: Literal["bubble", "full"] = "bubble",
        return_all: bool = False,
    ) -> list[str] | list[list[str]]:
        """The worst candidate of each input; with `return_all` all of them, the worst first."""
        return self._of_n(_requests(inputs, candidates, instructions), pairrm_cmp_type, return_all, worst=True)

    best_of_n = get_best_of_n

    def compare_conversations(
        self,
        conversations_a: Sequence[Conversation],
        conversations_b: Sequence[Conversation],
        return_logits: bool = False,
        mode: Mode = "[A,B]+[B,A]",
    ) -> Floats | NDArray[np.bool_]:
        """`compare` of the assistant's turns of two conversations whose user turns are the same."""
        if len(conversations_a) != len(conversations_b):
            raise ConfigError(f"{len(conversations_a)} and {len(conversations_b)} conversations: give as many")
        inputs, left, right = list[str](), list[str](), list[str]()
        for number, (a, b) in enumerate(zip(conversations_a, conversations_b, strict=True)):
            _check_turns(number, a, b)
            users = [turn["content"] for turn in a[0::2]]
            inputs.append("\n".join(f"USER: {u}\nAssistant: <Response {k}>" for k, u in enumerate(users, start=1)))
            left.append(_responses(a))
            right.append(_responses(b))
        return self.compare(inputs, left, right, [_TURNS] * len(inputs), return_logits, mode)

    def fuse(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        batch_size: int = 4,
    ) -> list[str]:
        """One answer an input out of its candidates, the best first."""
        found = list[str]()
        requests = _requests(inputs, candidates, instructions)
        for start in range(0, len(requests), _batch(batch_size)):
            part = requests[start : start + batch_size]
            found += [fused.text for fused in self.fuser.fuse([s for s, _ in part], [texts for _, texts in part])]
        return found

    def rank_and_fuse(
        self,
        inputs: Sequence[str],
        candidates: Sequence[Sequence[str]],
        instructions: Sequence[str] | None = None,
        return_scores: bool = False,
        batch_size: int = 4,
        top_k: int = 3,
    ) -> tuple[list[str], list[NDArray[np.float64]]]:
        """The fusion of the `top_k` best candidates of each input, and the ranks or scores of all of them."""
        if top_k < 1:
            raise ConfigError(f"top_k {top_k}: give at least 1")
        scores = self.rank(inputs, candidates, instructions, True, batch_size)
        best = [[texts[i] for i in order(s)[:top_k]] for texts, s in zip(candidates, scores, strict=True)]
        fused = self.fuse(inputs, best, instructions, batch_size)
        return fused, scores if return_scores else [ranks(s).astype(np.float64) for s in scores]

    def _of_n(
        self, requests: Sequence[tuple[str, Sequence[str]]], kind: str, return_all: bool, worst: bool
    ) -> list[str] | list[list[str]]:
        if kind not in ("bubble", "full"):
            raise ConfigError(f"pairrm_cmp_type {kind!r}: give bubble or full")
        sign = -1 if worst else 1
        if kind == "full" or return_all or not isinstance(self.ranker, PairRanker):
            scores = self.ranker.scores_of(requests)
            ordered = [[texts[i] for i in order(sign * s)] for (_, texts), s in zip(requests, scores, strict=True)]
            return ordered if return_all else [texts[0] for texts in ordered]
        return [texts[self.ranker.bubble(source, texts, worst=worst)] for source, texts in requests]


def _requests(
    inputs: Sequence[str], candidates: Sequence[Sequence[str]], instructions: Sequence[str] | None
) -> list[tuple[str, Sequence[str]]]:
    """Source and candidates of each input. Raises ConfigError for lengths that do not fit."""
    if len(inputs) != len(candidates):
        raise ConfigError(f"{len(inputs)} inputs and candidates for {len(candidates)}: give as many")
    if instructions is not None and len(instructions) != len(inputs):
        raise ConfigError(f"{len(instructions)} instructions for {len(inputs)} inputs: give as many, or None")
    if empty := [number for number, texts in enumerate(candidates) if len(texts) == 0]:
        raise ConfigError(f"input {empty[0]} has no candidate: give at least one")
    before = instructions or [""] * len(inputs)
    return [(b + text, texts) for b, text, texts in zip(before, inputs, candidates, strict=True)]


def _batch(size: int) -> int:
    if size < 1:
        raise ConfigError(f"batch_size {size}: give at least 1")
    return size


def _reference(texts: Sequence[str], mode: Reference) -> str:
    by_length = sorted(texts, key=len)
    chosen = {
        "longest": max(texts, key=len),
        "shortest": by_length[0],
        "median_length": by_length[len(texts) // 2],
        "first": texts[0],
        "last": texts[-1],
    }
    if mode not in chosen:
        raise ConfigError(f"ref_mode {mode!r}: give one of {', '.join(chosen)}")
    return chosen[mode]


def _check_turns(number: int, a: Conversation, b: Conversation) -> None:
    """Raises ConfigError for conversations that cannot be compared."""
    for turns in (a, b):
        roles = [turn["role"].upper() for turn in turns]
        if not roles or roles != ["USER", "ASSISTANT"] * (len(roles) // 2):
            raise ConfigError(f"conversation {number}: turns must be USER, ASSISTANT, USER, ASSISTANT and so on")
    if [turn["content"] for turn in a[0::2]] != [turn["content"] for turn in b[0::2]]:
        raise ConfigError(f"conversation {number}: the USER turns of both must be the same")


def _responses(turns: Conversation) -> str:
    return "\n".join(f"<Response {k}>: {turn['content']}" for k, turn in enumerate(turns[1::2], start=1))
