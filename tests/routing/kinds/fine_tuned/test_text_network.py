"""The network over an encoder: the frozen part apart gives what the whole gives, for encoders of several makes."""

from pathlib import Path

import pytest
import torch

from serve_app.errors import ConfigError
from serve_app.routing.kinds.fine_tuned.text_network import TextNetwork
from tests.learning.encoders import save_encoder

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
"""DeBERTa's own code, at import."""

TEXTS = ["what is 1 + 1?", "add 345 and 100", "2+2", "what is 31 + 500? " * 9]


@pytest.fixture(scope="module", params=["bert", "distilbert", "deberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp(request.param), request.param)


def network(folder: Path, trained_layers: int | None = 1, max_tokens: int = 64) -> TextNetwork:
    found = TextNetwork(folder, 2, trained_layers, max_tokens)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(found.head.weight)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("trained_layers", [1, 2])
def test_frozen_part_apart_gives_what_the_whole_gives(folder: Path, trained_layers: int) -> None:
    whole = network(folder, trained_layers)
    rows = whole.tokens(TEXTS)
    with torch.no_grad():
        expected = whole.logits(rows)
        states = whole.below(rows)
        with whole.above_only():
            found = whole.logits_above(rows, states)
        again = whole.logits(rows)
    assert [tuple(s.shape) for s in states] == [(len(r), 32) for r in rows]
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(again, expected)
    assert expected.std(0).min() > 1e-3


def test_only_the_last_layers_and_the_head_are_trained(folder: Path) -> None:
    one, three, whole = (network(folder, k) for k in (1, 3, None))
    assert {n.split("layer.")[-1][0] for n in one.trained() if n.startswith("body")} == {"2"}
    assert {n.split("layer.")[-1][0] for n in three.trained() if n.startswith("body")} == {"0", "1", "2"}
    assert set(three.trained()) < set(whole.trained())
    assert not three.frozen_below and not whole.frozen_below and one.frozen_below


def test_padding_does_not_move_a_text(folder: Path) -> None:
    whole = network(folder)
    rows = whole.tokens(TEXTS)
    with torch.no_grad():
        together = whole.logits(rows)
        alone = torch.cat([whole.logits([row]) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_long_text_keeps_its_end(folder: Path) -> None:
    whole = network(folder, max_tokens=16)
    rows = whole.tokens(["1 + 2 " * 5_000 + "add 345 and 100", "9 " * 9_000 + "add 345 and 100"])
    assert [len(row) for row in rows] == [16, 16]
    assert rows[0][-8:] == rows[1][-8:]


@pytest.mark.parametrize("layers", [0, 4])
def test_layers_that_are_not_there_are_refused(folder: Path, layers: int) -> None:
    with pytest.raises(ConfigError, match=f"train_layers is {layers}: .*3"):
        network(folder, layers)


def test_an_encoder_without_layers_of_its_own_is_trained_whole_or_refused(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path, "albert")
    with pytest.raises(ConfigError, match=r"AlbertModel .*3 layers"):
        network(folder, 1)
    assert any(name.startswith("body") for name in network(folder, None).trained())
