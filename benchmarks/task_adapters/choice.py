"""Classification by a language model: the likeliest of some labels after a prompt, or the first label in a free answer.

Log-probabilities are of a label's whole text and the token that ends it is left out, so that labels of several tokens
are compared with those of one by what the model would write first.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_ROWS = 16


@torch.inference_mode()
def label_scores(model: Any, tokenizer: Any, prompts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
    """Natural log-probability of each label as the continuation of each prompt, shape [prompts, labels]."""
    ends = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    scores = np.zeros((len(prompts), len(labels)))
    for rows in _batches(prompts):
        ids, mask = _padded(tokenizer, [prompts[i] for i in rows])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        first = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1)
        logprobs = first.logits[:, -1].float().log_softmax(-1)
        for column, end in enumerate(ends):
            found = logprobs[:, end[0]]
            if len(end) > 1:
                more = torch.tensor([end[:-1]] * len(rows))
                after = model(
                    input_ids=more,
                    attention_mask=torch.cat([mask, torch.ones_like(more)], 1),
                    position_ids=places[:, -1:] + 1 + torch.arange(more.shape[1]),
                    past_key_values=deepcopy(first.past_key_values),
                )
                further = after.logits.float().log_softmax(-1)
                found = found + sum(further[:, at, token] for at, token in enumerate(end[1:]))
            scores[rows, column] = found.numpy()
    return scores


@torch.inference_mode()
def free_answers(model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int = 8) -> list[str]:
    """Greedy continuations of at most so many tokens."""
    texts = [""] * len(prompts)
    for rows in _batches(prompts):
        ids, mask = _padded(tokenizer, [prompts[i] for i in rows])
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        for row, text in zip(
            rows, tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True), strict=True
        ):
            texts[row] = text
    return texts


def first_label(text: str, labels: Sequence[str]) -> int:
    """Position of the label that a text names first; -1 without any."""
    found = [(at, index) for index, label in enumerate(labels) if (at := text.lower().find(label)) >= 0]
    return min(found)[1] if found else -1


def _batches(prompts: Sequence[str]) -> list[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]


def _padded(tokenizer: Any, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, filled on the left, so that every prompt ends at the last position."""
    rows = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    width = max(map(len, rows))
    filler = tokenizer.pad_token_id or 0
    ids = torch.tensor([[filler] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
