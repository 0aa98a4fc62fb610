import ctypes
import math

import numpy as np
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


class Masked:
    """A guide that allows some tokens of a vocabulary of `size`, `extra` of them beyond it, and notes what it takes."""

    def __init__(self, size, allowed, extra=()):
        self.size, self.allowed, self.extra = size, set(allowed), set(extra)
        self.words = -(-(size + 40) // 32)
        self.forced = None
        self.took = []

    def fill(self, address, size_bytes):
        self.forced = None
        assert size_bytes == 4 * self.words
        bits = np.zeros(32 * self.words, dtype=np.uint8)
        bits[[*self.allowed, *self.extra]] = 1
        packed = np.packbits(bits, bitorder="little")
        ctypes.memmove(address, packed.tobytes(), size_bytes)

    def force(self, allowed):
        self.forced = self.size + int(allowed[self.size :].argmax())

    def choose(self, token, left):
        self.took.append(token if self.forced is None else self.forced)
        return token


def guided(guide, **options):
    sequence = one(**options)
    sequence.guide = guide
    return sequence


@pytest.mark.parametrize("size", [40, 118, 3000])
@pytest.mark.parametrize("padding", [0, 7, 64])
def test_grammars_of_few_and_of_many_tokens_share_a_batch_with_free_rows(size, padding):
    generator = torch.Generator().manual_seed(size)
    many = list(range(0, size, 2))
    rows = [
        one(),
        guided(Masked(size, [3])),
        guided(Masked(size, many), temperature=1.0, seed=4),
        guided(Masked(size, [], extra=[size + 5])),
        one(temperature=1.0, seed=5),
        guided(Masked(size, [1, 7, size - 1], extra=[size + 1])),
        guided(Masked(size, [2, 9, 31, 32, 33]), temperature=1.0, seed=6, top_p=0.9),
        guided(Masked(size, many), logprobs=True),
    ]
    plan = SamplingPlan.of(rows, CPU)
    seen = [set() for _ in rows]
    for _ in range(300):
        logits = torch.randn(len(rows), size + padding, generator=generator)
        before = logits.clone()
        tokens, likely = sample(logits, plan)
        assert torch.equal(logits, before) and set(likely) == {7}
        assert tokens[0] == logits[0].argmax() and tokens[1] == 3
        assert tokens[5] == max((1, 7, size - 1), key=lambda t: logits[5, t])
        assert tokens[7] == max(many, key=lambda t: logits[7, t])
        for row, token in enumerate(tokens.tolist()):
            seen[row].add(token)
    assert seen[2] <= set(many) and len(seen[2]) > 10
    assert seen[6] == {2, 9, 31, 32, 33}
    assert rows[3].guide.took == [size + 5] * 300, "written by a token beyond the model's"
    assert len(seen[4]) > 20


def test_a_row_draws_the_same_among_few_and_alone():
    logits = torch.randn(1, 5000, generator=torch.Generator().manual_seed(1))
    for allowed in ([5, 77, 4000], range(1, 5000, 3)):
        alone = [
            sample(logits.clone(), SamplingPlan.of([guided(Masked(5000, allowed), temperature=1.0, seed=s)], CPU))[0][0]
            for s in range(30)
        ]
        together = sample(
            logits.repeat(30, 1),
            SamplingPlan.of([guided(Masked(5000, allowed), temperature=1.0, seed=s) for s in range(30)], CPU),
        )[0]
        assert together.tolist() == [int(t) for t in alone] and len(set(together.tolist())) > 1
