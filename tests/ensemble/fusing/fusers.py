"""Tiny fusers over the lab's characters, and rows that they can learn: the answer is the first candidate."""

from random import Random

from serve_app.ensemble.fusing.gen_fuser import FuserSize, GenFuser, new_fuser
from serve_app.ensemble.fusing.sequence import FusionForm
from serve_app.ensemble.fusing.training import FusionRow
from serve_app.lab.model import build_tokenizer


def tiny(seed: int = 0, form: FusionForm | None = None) -> GenFuser:
    return new_fuser(FuserSize(32, 1), build_tokenizer(), form, seed)


def copies(count: int, letters: int = 2) -> list[FusionRow]:
    rng = Random(0)
    rows = []
    for number in range(count):
        texts = ["".join(rng.choice("abcd") for _ in range(letters)) for _ in range(2)]
        rows.append(FusionRow(f"q{number % 97}", tuple(texts), texts[0]))
    return rows
