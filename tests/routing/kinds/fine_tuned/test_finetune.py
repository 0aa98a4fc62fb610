"""Fine-tuning: it learns, it stops at its best, and one that was killed ends where one that was not ends."""

from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.learning.scratch_encoder import Shape, fresh_encoder, learned_tokenizer
from serve_app.routing.kinds.fine_tuned import finetune as module
from serve_app.routing.kinds.fine_tuned import text_network as frozen_states
from serve_app.routing.kinds.fine_tuned.finetune import Examples, Recipe, TextLearner, finetune
from serve_app.routing.kinds.fine_tuned.text_network import TextNetwork
from tests.data.samples import sums
from tests.learning.encoders import save_encoder

DATA = sums(200, seed=1)
TEXTS = [q.text for q in DATA.queries]
HARD = DATA.strong_win_rate()
LABELS = np.stack([HARD, 1 - HARD], axis=1)


class Killed(Exception):
    """Stands for a signal."""


def fresh() -> TextNetwork:
    tokenizer = learned_tokenizer(TEXTS)
    return TextNetwork.of(fresh_encoder(Shape(1, 32), len(tokenizer), 64, 0), tokenizer, 2, 64)


def tensors(network: TextNetwork) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.trained().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def losses(lines: list[str]) -> list[float]:
    return [float(line.split("held back ")[1].split(",")[0]) for line in lines if "held back" in line]


def test_it_learns_and_keeps_its_best_epoch() -> None:
    network, lines = fresh(), list[str]()
    finetune(network, TEXTS, LABELS, Recipe(8, 3e-3), lines.append)
    found = losses(lines)
    assert min(found) < 0.4 < 0.6 < found[0]
    learner = TextLearner(network, Examples.of(network, TEXTS, LABELS, 0), 0)
    parts = [learner.loss(batch) for batch in learner.held_back()]
    mean = sum(float(loss.detach()) * weight for loss, weight in parts) / sum(weight for _, weight in parts)
    assert mean == pytest.approx(min(found), abs=1e-4)


def test_it_stops_when_what_is_held_back_gets_no_better() -> None:
    noise = np.random.default_rng(0).random(len(TEXTS)).round()
    lines = list[str]()
    finetune(fresh(), TEXTS, np.stack([noise, 1 - noise], axis=1), Recipe(40, 1e-2), lines.append)
    found = losses(lines)
    assert len(found) == int(np.argmin(found)) + 3 < 40


def test_a_frozen_part_stays_and_the_rest_moves(tmp_path: Path) -> None:
    network = TextNetwork(save_encoder(tmp_path), 2, 1, 64)
    before = {n: p.detach().clone() for n, p in network.body.named_parameters()}
    finetune(network, TEXTS[:64], LABELS[:64], Recipe(1, 1e-3), lambda line: None)
    moved = {n for n, p in network.body.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".2." in name for name in moved)


def test_kept_states_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_encoder(tmp_path)
    monkeypatch.setattr(module, "half_precision", lambda: False)
    found = []
    for size in (1 << 30, 0):
        monkeypatch.setattr(frozen_states, "BYTES", size)
        network = TextNetwork(folder, 2, 1, 64)
        finetune(network, TEXTS[:64], LABELS[:64], Recipe(2, 1e-3), lambda line: None)
        found.append(tensors(network))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-4) for name in found[0])


@pytest.mark.skipif(not module.half_precision(), reason="this CPU does not multiply bfloat16 natively")
def test_half_precision_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for half in (True, False):
        monkeypatch.setattr(module, "half_precision", lambda half=half: half)
        lines = list[str]()
        finetune(fresh(), TEXTS, LABELS, Recipe(8, 3e-3), lines.append)
        found.append(min(losses(lines)))
    assert found[0] == pytest.approx(found[1], abs=0.1)


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_run_goes_on_to_the_same_end(after: int, tmp_path: Path) -> None:
    recipe, whole = Recipe(4, 2e-3), fresh()
    finetune(whole, TEXTS, LABELS, recipe, lambda line: None)
    seen = 0

    def kill(line: str) -> None:
        nonlocal seen
        seen += "held back" in line
        if seen > after:
            raise Killed

    with pytest.raises(Killed):
        finetune(fresh(), TEXTS, LABELS, recipe, kill, tmp_path)
    lines, resumed = list[str](), fresh()
    finetune(resumed, TEXTS, LABELS, recipe, lines.append, tmp_path)
    assert lines[0] == f"resumes after epoch {after}" and len(lines) == 1 + 4 - after
    assert equal(tensors(resumed), tensors(whole))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoil", ["cut", "other data"])
def test_a_checkpoint_of_another_run_or_cut_is_passed_over(spoil: str, tmp_path: Path) -> None:
    recipe, whole = Recipe(2, 2e-3), fresh()
    finetune(whole, TEXTS, LABELS, recipe, lambda line: None)

    def kill(line: str) -> None:
        if line.startswith("epoch 2"):
            raise Killed

    other = 1 - LABELS if spoil == "other data" else LABELS
    with pytest.raises(Killed):
        finetune(fresh(), TEXTS, other, recipe, kill, tmp_path)
    [file] = tmp_path.iterdir()
    if spoil == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    again = fresh()
    finetune(again, TEXTS, LABELS, recipe, lambda line: None, tmp_path)
    assert equal(tensors(again), tensors(whole))


def test_repeated_texts_count_as_often_as_they_come() -> None:
    labels = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.25, 0.75]])
    examples = Examples.of(fresh(), ["a", "b", "a", "a"], labels, 0)
    assert examples.weights.tolist() == [3, 1]
    assert examples.labels[0] == pytest.approx([1.25 / 3, 1.75 / 3])
    assert examples.prior() == pytest.approx(np.array([1.75, 3.25]) / 5)


def test_texts_are_held_back_by_seed_and_never_all() -> None:
    network = fresh()
    parts = [Examples.of(network, TEXTS, LABELS, seed).held_back for seed in (0, 0, 1)]
    assert (parts[0] == parts[1]).all() and (parts[0] != parts[2]).any()
    assert 0.02 < parts[0].mean() < 0.25
    for text in TEXTS[:30]:
        assert not Examples.of(network, [text], LABELS[:1], 0).held_back.any()


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    finetune(fresh(), TEXTS[:40], LABELS[:40], Recipe(1, 1e-3), lambda line: None)
    assert torch.equal(torch.rand(1), expected)
