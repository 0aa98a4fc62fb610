import math

import pytest
import torch

from serve_app.engines.transformers.sampler import SamplingPlan, sample
from tests.engines.transformers.sequences import request

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])


def draw(*sequences, logits=LOGITS):
    return sample(logits.repeat(len(sequences), 1), SamplingPlan.of(sequences, CPU))


def one(**options):
    return request(**options).sequences[0]


def shares(count=4000, **options):
    tokens, _ = draw(*[one(seed=1, **options)] * count)
    return torch.bincount(tokens, minlength=4) / count


def test_temperature_zero_is_greedy_and_so_is_next_to_zero():
    assert draw(one(), one(top_p=0.1), one(temperature=1e-42))[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_draws_follow_the_softmax(temperature):
    expected = (LOGITS / temperature).softmax(-1)
    assert torch.allclose(shares(temperature=temperature), expected, atol=0.03)


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p():
    probabilities = LOGITS.softmax(-1)
    found = shares(temperature=1.0, top_p=float(probabilities[1]) + 0.05)
    assert found[0] == found[3] == 0
    expected = probabilities[1] / (probabilities[1] + probabilities[2])
    assert math.isclose(found[1], expected, abs_tol=0.03)


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
def test_a_tiny_nucleus_still_has_the_best_token(top_p):
    assert shares(100, temperature=1.0, top_p=top_p)[1] == 1


def test_a_token_without_mass_is_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf])
    rows = [one(temperature=1.0, seed=1, top_p=p) for p in (1.0, 0.99)] * 500
    assert set(draw(*rows, logits=logits)[0].tolist()) == {1, 2}


def test_draws_at_the_edges_of_the_unit_interval():
    class Edge:
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    rows = [one(temperature=1.0, top_p=p) for p in (1.0, 0.5) for _ in range(2)]
    for row, value in zip(rows, (0.0, 1.0, 0.0, 1.0), strict=True):
        row.rng = Edge(value)
    tokens = draw(*rows)[0].tolist()
    assert tokens[0] == 0
    assert tokens[1] == 3
    assert tokens[2] == tokens[3] == 1


def test_greedy_and_drawn_rows_mix_without_touching_each_other():
    drawn = {"temperature": 1.0, "seed": 9}
    alone = [draw(one(**drawn))[0].item(), draw(one(top_p=0.9, **drawn))[0].item()]
    mixed, _ = draw(one(), one(**drawn), one(temperature=0.7, seed=1), one(top_p=0.9, **drawn), one())
    assert mixed.tolist()[1::2] == alone
    assert mixed[0] == mixed[4] == 1


def test_presence_counts_once_and_frequency_each_time():
    said = one(presence_penalty=0.6, frequency_penalty=0.3)
    said.counts = {1: 2}  # 2.0 - 0.6 - 0.6 = 0.8 < 1.0
    fresh = one(presence_penalty=0.6)
    less = one(presence_penalty=0.6)
    less.counts = {1: 9}  # 2.0 - 0.6 = 1.4 > 1.0
    assert draw(said, fresh, less, one())[0].tolist() == [2, 1, 1, 1]


def test_logprobs_are_the_model_s_own():
    penalised = one(logprobs=True, top_logprobs=2, presence_penalty=2.0)
    penalised.counts = {1: 1}
    hot = one(logprobs=True, temperature=2.0, seed=1)
    tokens, likely = draw(penalised, one(), hot)
    expected = LOGITS.log_softmax(-1)
    assert set(likely) == {0, 2}
    assert tokens[0] == 2
    assert math.isclose(likely[0].logprob, expected[2], abs_tol=1e-6)
    assert [i for i, _ in likely[0].top] == [1, 2]
    assert likely[2].top == ()
    assert math.isclose(likely[2].logprob, expected[tokens[2]], abs_tol=1e-6)


def test_more_top_logprobs_than_tokens():
    _, likely = draw(one(logprobs=True, top_logprobs=20))
    assert len(likely[0].top) == 4


def test_the_given_logits_are_not_changed():
    logits = LOGITS.repeat(1, 1)
    penalised = one(frequency_penalty=1.0)
    penalised.counts = {1: 1}
    sample(logits, SamplingPlan.of([penalised], CPU))
    assert torch.equal(logits[0], LOGITS)
