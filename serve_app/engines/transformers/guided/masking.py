"""Guides in a batch: rows with one get a mask before their token is drawn, and have a say in it after."""

from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from serve_app.engines.transformers.guided.guide import Guide


def restricted(scores: Tensor, rows: Rows[int], guides: Rows[Guide], *, in_place: bool) -> Tensor:
    """Scores [all rows, vocabulary] where tokens that a row's grammar forbids have minus infinity.

    A row whose grammar allows no token of the model's stays as it is: `Guide.choose` writes what must come.
    """
    words = np.zeros((len(rows), guides[0].words), dtype=np.int32)
    held = [i for i, guide in enumerate(guides) if guide.fill(words[i])]
    if not held:
        return scores
    size, width = guides[0].size, scores.shape[-1]
    allowed = np.zeros((len(held), width), dtype=np.uint8)
    bits = np.unpackbits(words[held].view(np.uint8), axis=1, bitorder="little")[:, : min(size, width)]
    allowed[:, : bits.shape[1]] = bits
    forbidden = torch.from_numpy(allowed == 0).to(scores.device)
    index = torch.tensor([rows[i] for i in held], device=scores.device)
    scores = scores if in_place else scores.clone()
    scores[index] = scores[index].masked_fill(forbidden, -torch.inf)
    return scores


def chosen(tokens: Tensor, rows: Rows[int], guides: Rows[Guide], left: Rows[int]) -> None:
    """Puts into `tokens` [all rows] what each row's guide makes of its sampled token; `left` as in `Guide.choose`."""
    index = torch.tensor(rows, device=tokens.device)
    sampled = tokens[index].tolist()
    taken = [guide.choose(token, most) for guide, token, most in zip(guides, sampled, left, strict=True)]
    if taken != sampled:
        tokens[index] = torch.tensor(taken, device=tokens.device)
