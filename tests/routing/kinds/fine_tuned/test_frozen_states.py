"""States of the frozen part are computed once for a text, and never for another part's."""

from pathlib import Path

import pytest
import torch

from serve_app.routing.kinds.fine_tuned import text_network as module
from serve_app.routing.kinds.fine_tuned.text_network import FrozenStates, TextNetwork
from tests.learning.encoders import save_encoder

TEXTS = ["what is 1 + 1?", "add 345 and 100", "2+2", "what is 1 + 1?"]


class Counting(TextNetwork):
    """Counts the rows that its frozen part computes."""

    computed = 0

    def below(self, rows: list[list[int]]) -> list[torch.Tensor]:
        self.computed += len(rows)
        return super().below(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def test_each_text_is_computed_once(folder: Path) -> None:
    states, first, second = FrozenStates(), Counting(folder, 2, 1, 64), Counting(folder, 3, 1, 64)
    rows = first.tokens(TEXTS)
    found = states.of(first, rows)
    again = states.of(second, [*rows, *second.tokens(["9 + 9"])])
    assert found is not None and again is not None
    assert (first.computed, second.computed) == (3, 1)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=False))
    assert all(torch.allclose(a, first.below([row])[0], atol=1e-5) for a, row in zip(found, rows, strict=True))


def test_another_part_has_other_states(folder: Path) -> None:
    states, one, two = FrozenStates(), Counting(folder, 2, 1, 64), Counting(folder, 2, 2, 64)
    rows = one.tokens(TEXTS[:1])
    a, b, c = states.of(one, rows), states.of(two, rows), states.of(one, rows)
    assert a is not None and b is not None and c is not None
    assert one.computed == 2 and two.computed == 1
    assert torch.equal(a[0], c[0]) and not torch.allclose(a[0], b[0])


def test_what_is_too_much_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, network = FrozenStates(), Counting(folder, 2, 1, 64)
    rows = network.tokens(TEXTS[:3])
    monkeypatch.setattr(module, "BYTES", 4 * 32 * (len(rows[0]) + len(rows[1])))
    assert states.of(network, rows) is None and network.computed == 0
    assert states.of(network, rows[:2]) is not None
    assert states.of(network, rows[2:]) is not None
    assert states.of(network, rows[:1]) is not None


def test_nothing_frozen_keeps_nothing(folder: Path) -> None:
    for layers in (3, None):
        network = TextNetwork(folder, 2, layers, 64)
        assert FrozenStates().of(network, network.tokens(TEXTS)) is None
