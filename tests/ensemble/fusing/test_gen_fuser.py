"""GenFuser: it writes what it has learned, gives nothing out cut, and is read strictly from its folder."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.ensemble.base import Fused
from serve_app.ensemble.fusing import gen_fuser as module
from serve_app.ensemble.fusing.gen_fuser import FILE, FuserSize, GenFuser, batches_by_length
from serve_app.ensemble.fusing.sequence import FusionForm
from serve_app.ensemble.fusing.training import FusionRecipe, train_fuser
from serve_app.errors import ConfigError
from tests.ensemble.fusing.fusers import copies, tiny
from tests.grading.seq2seq import save_bart, save_t5


@pytest.fixture(scope="module")
def trained() -> GenFuser:
    fuser = tiny()
    train_fuser(fuser, copies(800), FusionRecipe(24, 5e-3), lambda line: None)
    return fuser


def fused(fuser: GenFuser, count: int = 100) -> list[Fused]:
    rows = copies(count)
    return fuser.fuse([row.source for row in rows], [row.candidates for row in rows])


def test_it_writes_what_it_has_learned(trained: GenFuser):
    found = fused(trained)
    right = sum(f.text == row.reference for f, row in zip(found, copies(100), strict=True) if f.used)
    assert right > 20, "chance is 6 of 100"


def test_requests_do_not_influence_each_other(trained: GenFuser, monkeypatch: pytest.MonkeyPatch):
    together = fused(trained, 40)
    monkeypatch.setattr(module, "_ROWS", 1)
    assert fused(trained, 40) == together


def test_an_answer_without_an_end_is_not_given_out():
    found = tiny().fuse(["q", "q"], [["abc", "b"], ["a", "a"]])
    assert found[0].text == "abc" and found[0].used == ()
    assert "no end within 22 tokens" in found[0].reason or "empty" in found[0].reason
    assert found[1] == Fused("a", (), "there are no two different candidates")
    assert tiny().fuse([], []) == []
    with pytest.raises(ValueError, match="no candidates"):
        tiny().fuse(["q"], [[]])


def test_what_does_not_fit_is_the_best_as_it_was(trained: GenFuser):
    long = "ab " * 2000
    assert trained.fuse(["q"], [[long, "b"]])[0].text == long


def test_a_saved_fuser_fuses_the_same(trained: GenFuser, tmp_path: Path):
    folder = tmp_path / "fuser"
    trained.save(folder, {"rows": 800})
    loaded = GenFuser.load(folder)
    assert loaded.version == trained.version and loaded.version.startswith("genfuser-")
    assert loaded.form == trained.form and fused(loaded, 30) == fused(trained, 30)
    assert [p.name for p in tmp_path.iterdir()] == ["fuser"], "nothing half is left"
    assert json.loads((folder / FILE).read_text())["data"] == {"rows": 800}
    assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    with pytest.raises(ConfigError, match="exists already"):
        trained.save(folder, {})


def test_other_weights_are_another_version(tmp_path: Path):
    versions = set()
    for seed in (0, 0, 1):
        fuser = tiny(seed)
        fuser.save(tmp_path / f"f{len(list(tmp_path.iterdir()))}", {})
        versions.add(fuser.version)
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("weights", "they were changed"),
        ("missing", "would be random"),
        ("form", "they were changed"),
        ("keys", "exactly the keys"),
        ("kind", "kind is"),
        ("pickle", "no seq2seq model"),
        ("cut", "cannot be loaded"),
    ],
)
def test_a_spoiled_folder_is_refused(spoil: str, message: str, tmp_path: Path):
    folder = tmp_path / "fuser"
    tiny().save(folder, {})
    weights, body = folder / "model.safetensors", json.loads((folder / FILE).read_text())
    tensors = load_file(weights)
    if spoil == "weights":
        tensors["shared.weight"][0, 0] += 1
    elif spoil == "missing":
        del tensors["encoder.final_layer_norm.weight"]
    elif spoil == "form":
        body["form"]["order"] = "other"
    elif spoil == "keys":
        body["extra"] = 1
    elif spoil == "kind":
        body["kind"] = "ranker"
    save_file(tensors, weights, metadata={"format": "pt"})
    (folder / FILE).write_text(json.dumps(body))
    if spoil == "pickle":
        torch.save(tensors, folder / "pytorch_model.bin")
        weights.unlink()
    elif spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=message):
        GenFuser.load(folder)


@pytest.mark.parametrize("save", [save_t5, save_bart])
def test_any_seq2seq_model_can_be_trained_to_fuse(tmp_path: Path, save):
    folder = save(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"has no <extra_id_0>.*train-fuser"):
        GenFuser.load(folder)
    form = FusionForm(2, 24, "", "", "")
    first, second = (GenFuser.start(folder, form, seed=3) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parts.model.parameters(), second.parts.model.parameters(), strict=True)
    )
    first.save(tmp_path / "fuser", {})
    loaded = GenFuser.load(tmp_path / "fuser")
    sources, candidates = ["the cat sat", "the dog"], [["on the mat", "far away"], ["big red", "road"]]
    assert loaded.fuse(sources, candidates) == first.fuse(sources, candidates)


def test_batches_hold_their_bounds():
    lengths = [5, 0, 3, 9, 3, 3, 8]
    batches = list(batches_by_length(lengths, 3, 18))
    assert sorted(i for b in batches for i in b) == [0, 2, 3, 4, 5, 6]
    assert all(len(b) <= 3 and len(b) * max(lengths[i] for i in b) <= 18 for b in batches)
    assert list(batches_by_length([50], 3, 18)) == [[0]], "one row alone is always a batch"


def test_a_size_is_checked():
    with pytest.raises(ConfigError, match="multiple of 32"):
        FuserSize(40)
