"""Storage and scoring of a fine-tuned classifier over a pretrained encoder."""

import json
import shutil
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from serve_app.errors import ConfigError
from serve_app.learning import encoder as encoders
from serve_app.learning.encoder import narrow
from serve_app.routing.kinds.fine_tuned import text_classifier as module
from serve_app.routing.kinds.fine_tuned.finetune import Recipe
from serve_app.routing.kinds.fine_tuned.text_classifier import Setting, TextClassifier
from tests.data.samples import sums
from tests.learning.encoders import save_encoder

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
"""DeBERTa's own code, at import."""

DATA = sums(120, seed=1)
TEXTS = [q.text for q in DATA.queries]
HARD = DATA.strong_win_rate()
LABELS = np.stack([HARD, 1 - HARD], axis=1)


def ignore(line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def setting(folder: Path) -> Setting:
    return Setting(str(folder), 1, 64)


@pytest.fixture(scope="module")
def fitted(setting: Setting) -> TextClassifier:
    return TextClassifier.fit(setting, TEXTS, LABELS, Recipe(2, 3e-3), ignore)


def test_only_what_was_trained_is_stored(fitted: TextClassifier, setting: Setting, tmp_path: Path) -> None:
    kept = fitted.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"weights.safetensors"}
    parameters = sum(tensor.numel() for tensor in fitted.weights_.values())
    assert 8_000 < parameters < 10_000  # one layer of three, and the head
    other = tmp_path.parent / "other"
    other.touch()
    assert (tmp_path / "weights.safetensors").stat().st_mode == other.stat().st_mode
    assert (tmp_path / "weights.safetensors").stat().st_size < 2 * parameters + 4_000
    again = TextClassifier.load(tmp_path, setting, json.loads(json.dumps(kept)))
    assert again.probabilities(TEXTS) == pytest.approx(fitted.probabilities(TEXTS), abs=2e-3)


@pytest.mark.slow
def test_scores_in_half_precision_hardly_move(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for how in (narrow, lambda body: body):
        monkeypatch.setattr(module, "narrowed", how)
        fitted = TextClassifier.fit(setting, TEXTS, LABELS, Recipe(20, 1e-2), ignore)
        found.append(fitted.probabilities(TEXTS))
    assert np.abs(found[0] - found[1]).max() < 0.02 < 0.1 < found[1][:, 0].std()


@pytest.mark.slow
def test_the_papers_kind_of_encoder_learns_and_comes_back(tmp_path: Path) -> None:
    """DeBERTa, whose attention reads relative positions beside the hidden states."""
    setting = Setting(str(save_encoder(tmp_path / "encoder", "deberta")), 2, 64)
    fitted = TextClassifier.fit(setting, TEXTS, LABELS, Recipe(15, 1e-2), ignore)
    scores = fitted.probabilities(TEXTS)[:, 0]
    assert scores[HARD == 1].mean() > scores[HARD == 0].mean() + 0.3
    again = TextClassifier.load(tmp_path / "router", setting, fitted.save(tmp_path / "router"))
    assert again.probabilities(TEXTS)[:, 0] == pytest.approx(scores, abs=5e-3)


def test_another_encoder_is_refused(
    fitted: TextClassifier, setting: Setting, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = fitted.save(tmp_path)
    other = save_encoder(tmp_path / "other", layers=2)
    with pytest.raises(ConfigError, match=r"router\.json: .*encoder"):
        TextClassifier.load(tmp_path, Setting(str(other), 1, 64), kept)
    shutil.rmtree(other)
    monkeypatch.setattr(encoders, "_loaded", {})
    with pytest.raises(ConfigError, match="'minilm'"):
        TextClassifier.load(tmp_path, Setting(str(other), 1, 64), kept)


def test_weights_of_another_shape_are_refused(fitted: TextClassifier, folder: Path, tmp_path: Path) -> None:
    kept = fitted.save(tmp_path)
    with pytest.raises(ConfigError, match=r"weights\.safetensors: .*tensors"):
        TextClassifier.load(tmp_path, Setting(str(folder), 2, 64), kept)


def test_results_are_kept_by_text(fitted: TextClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fitted.probabilities(["1 + 1", "new text", "1 + 1"])
    assert expected[0].tolist() == expected[2].tolist()
    monkeypatch.setattr(fitted, "_compute", lambda texts: pytest.fail(f"computed {texts} again"))
    assert fitted.probabilities(["new text", "1 + 1"]).tolist() == expected[[1, 0]].tolist()


def test_several_threads_get_what_one_gets(fitted: TextClassifier, setting: Setting, tmp_path: Path) -> None:
    fresh = TextClassifier.load(tmp_path, setting, fitted.save(tmp_path))
    found: dict[int, np.ndarray] = {}
    parts = [TEXTS[i : i + 40] for i in range(0, 80, 20)]
    threads = [Thread(target=lambda i=i: found.update({i: fresh.probabilities(parts[i])})) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, part in enumerate(parts):
        assert found[i] == pytest.approx(fitted.probabilities(part), abs=2e-3)


def test_the_word_that_decides_is_named_first() -> None:
    rng = np.random.default_rng(0)
    filler = ["red", "green", "blue", "lamp", "door", "chair"]
    hard = np.arange(240) % 2 == 0
    texts = [" ".join(rng.permutation([*rng.choice(filler, 4), "prove" if h else "say"])) for h in hard]
    labels = np.stack([hard, ~hard], axis=1).astype(float)
    setting = Setting("scratch-1x32", None, 64)
    found = TextClassifier.fit(setting, texts, labels, Recipe(6, 5e-3), ignore)
    explained = found.explain("red lamp prove door blue", 0)
    assert next(iter(explained)) == "prove (word 3)" and explained["prove (word 3)"] > 0
    assert len(explained) == 5
    assert len(found.explain("word " * 5_000, 0)) == 24
    assert found.explain("  ", 0) == {}
