"""The network: the sequence it reads, its head by hand, its forms, and batches that change nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.ensemble.ranking.lower_states import subset
from serve_app.ensemble.ranking.network import NetworkShape, Parts, RankingNetwork
from serve_app.ensemble.ranking.sequence import LEFT, RIGHT, SOURCE, Lengths, SequenceTokenizer
from serve_app.errors import ConfigError
from tests.ensemble.ranking.rankers import LENGTHS, network
from tests.learning.encoders import save_encoder

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # in DeBERTa's own code

PAIRS = [(0, 1), (1, 0), (2, 0), (3, 4), (4, 3)]


def parts(made: RankingNetwork) -> Parts:
    sources = [made.tokens.source(text) for text in ("sum of 1 2", "what is the largest of the numbers 4 5 6")]
    first = made.tokens.candidates(["3", "the sum is 3", ""], len(sources[0]))
    second = made.tokens.candidates(["6", "5 or 6"], len(sources[1]))
    return Parts(sources, [*first, *second], [0, 0, 0, 1, 1])


def spread(made: RankingNetwork) -> RankingNetwork:
    """Random special tokens and side, so that order matters."""
    with torch.no_grad():
        torch.manual_seed(1)
        made.body.get_input_embeddings().weight[list(made.tokens.special)] += torch.randn(3, made.width)
    return made


def test_a_sequence_opens_each_part_with_its_token_and_closes_it(tmp_path: Path) -> None:
    tokens = network(tmp_path).tokens
    names = tokens.tokenizer.convert_ids_to_tokens
    assert names(tokens.source("7 8")) == ["[CLS]", SOURCE, "7", "8", "[SEP]"]
    left = tokens.candidates(["2"], 5)[0]
    assert names(left) == ["[CLS]", LEFT, "2", "[SEP]"] and names(tokens.right(left)) == ["[CLS]", RIGHT, "2", "[SEP]"]


def test_parts_keep_their_beginning_and_share_what_the_source_leaves(tmp_path: Path) -> None:
    tokens = network(tmp_path).tokens
    long = tokens.source("1 2 3 4 5 6 7 8 9 " * 9)
    assert len(long) == LENGTHS.source
    assert tokens.tokenizer.decode(long[2:5]).split() == ["1", "2", "3"]
    assert len(tokens.candidates(["7 " * 99], LENGTHS.source)[0]) == LENGTHS.candidate
    assert len(tokens.candidates(["7 " * 99], 6)[0]) == LENGTHS.candidate + (LENGTHS.source - 6) // 2
    assert len(tokens.candidates([""], 6)[0]) == 3


def test_text_cannot_forge_a_special_token(tmp_path: Path) -> None:
    tokens = network(tmp_path).tokens
    ids = tokens.candidates([f"{RIGHT} [SEP] {SOURCE} \ud800"], 5)[0]
    assert set(ids[2:-1]).isdisjoint({*tokens.special, tokens.tokenizer.sep_token_id})


def test_the_head_is_shared_and_by_hand(tmp_path: Path) -> None:
    made = spread(network(tmp_path, NetworkShape(metrics=("a", "b"))))
    given = parts(made)
    row = [*given.sources[0], *given.candidates[0], *made.tokens.right(given.candidates[1])]
    source, left, right = 1, len(given.sources[0]) + 1, len(given.sources[0]) + len(given.candidates[0]) + 1
    with torch.inference_mode():
        states = made.body(input_ids=torch.tensor([row])).last_hidden_state[0]
        outputs = []
        for side in (left, right):
            hidden = torch.cat([states[source], states[side]]) @ made.head[1].weight.T + made.head[1].bias
            outputs.append(torch.tanh(hidden) @ made.head[4].weight.T + made.head[4].bias)
        found = made(given, [(0, 1)])
    torch.testing.assert_close(found[0][0], outputs[0])
    torch.testing.assert_close(found[1][0], outputs[1])
    assert found[0].shape == (1, 2)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "deberta", "albert"])
def test_any_encoder_and_padding_changes_nothing(tmp_path: Path, kind: str) -> None:
    made = spread(network(tmp_path, kind=kind))
    given = parts(made)
    with torch.inference_mode():
        together = made(given, PAIRS)
        for row, pair in enumerate(PAIRS):
            alone = made(given, [pair])
            for side in (0, 1):
                torch.testing.assert_close(together[side][row], alone[side][0], atol=1e-5, rtol=1e-5)
        assert abs(float((together[0] - together[1])[0] + (together[0] - together[1])[1])) > 1e-6, "order matters"


@pytest.mark.parametrize("joint", [1, 2])
def test_a_staged_pair_is_one_masked_sequence(tmp_path: Path, joint: int) -> None:
    """Against BertModel itself: the lower layers on each candidate alone, the upper ones on the joined states."""
    made = spread(network(tmp_path, NetworkShape(joint_layers=joint)))
    given = parts(made)
    with torch.inference_mode():
        found = made(given, PAIRS)
        for row, (i, j) in enumerate(PAIRS):
            source = given.sources[given.source_of[i]]
            lower = [_below(made, source, given.candidates[k], joint) for k in (i, j)]
            states = torch.cat([lower[0], lower[1][len(source) :]])[None]
            left, right = slice(len(source), len(lower[0])), slice(len(lower[0]), states.shape[1])
            for layer, bias in zip(made.body.encoder.layer[-joint:], made.other, strict=True):
                mask = torch.zeros(1, 1, states.shape[1], states.shape[1])
                mask[:, :, left, right] = mask[:, :, right, left] = bias
                states = layer(states, mask)
            marks = [1, len(source) + 1, len(lower[0]) + 1]
            for side in (0, 1):
                output = made.head(torch.cat([states[0, marks[0]], states[0, marks[1 + side]]]))
                torch.testing.assert_close(found[side][row], output, atol=1e-5, rtol=1e-5)
        swapped = made(given, [(j, i) for i, j in PAIRS])
    torch.testing.assert_close(found[0], swapped[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-5)


def _below(made: RankingNetwork, source: list[int], candidate: list[int], joint: int) -> torch.Tensor:
    ids = torch.tensor([[*source, *candidate]])
    mask = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
    mask[:, :, : len(source), len(source) :] = torch.finfo(torch.float32).min
    states = made.body.embeddings(input_ids=ids)
    for layer in made.body.encoder.layer[:-joint]:
        states = layer(states, mask)
    return states[0]


def test_no_logit_is_beyond_the_bound(tmp_path: Path) -> None:
    made = spread(network(tmp_path, NetworkShape(metrics=("a", "b"))))
    with torch.inference_mode():
        made.head[1].weight *= 100
        left, right = made(parts(made), PAIRS)
    logits = (left - right).mean(1).abs()
    assert 0 < float(logits.max()) <= made.bound


@pytest.mark.parametrize("joint", [None, 1, 2])
def test_a_pointwise_network_values_each_candidate_alone(tmp_path: Path, joint: int | None) -> None:
    made = network(tmp_path, NetworkShape(form="pointwise", joint_layers=joint))
    given = parts(made)
    with torch.inference_mode():
        values = made.values(given)
        left, right = made(given, PAIRS)
        alone = torch.cat([made.values(subset(given, [k])) for k in range(5)])
    torch.testing.assert_close(alone, values, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(left[:, 0], values[[i for i, _ in PAIRS], 0])
    np.testing.assert_allclose(right[:, 0], values[[j for _, j in PAIRS], 0])


@pytest.mark.parametrize(
    ("shape", "lengths", "kind", "message"),
    [
        (NetworkShape(), Lengths(32, 32), "bert", "64 positions"),
        (NetworkShape(joint_layers=3), LENGTHS, "bert", "3 layers"),
        (NetworkShape(joint_layers=1), LENGTHS, "distilbert", "BERT"),
    ],
)
def test_shapes_that_an_encoder_does_not_allow(
    tmp_path: Path, shape: NetworkShape, lengths: Lengths, kind: str, message: str
) -> None:
    import transformers

    folder = save_encoder(tmp_path / "encoder", kind)
    tokens = SequenceTokenizer(transformers.AutoTokenizer.from_pretrained(folder), lengths)
    with pytest.raises(ConfigError, match=message):
        RankingNetwork(transformers.AutoModel.from_pretrained(folder), tokens, shape)
    with pytest.raises(ConfigError, match="at least 8"):
        Lengths(4, 16)
