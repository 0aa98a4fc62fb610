"""What requests change of scores and probabilities, held against transformers' own processors."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from serve_app.engines.further import FurtherSampling
from serve_app.engines.transformers.sampler import SamplingPlan, sample
from serve_app.engines.transformers.shaping import Narrowing, Shaping
from tests.engines.transformers.sequences import EOS, request
from tests.engines.transformers.test_sampler import Masked
from tests.engines.transformers.test_sampler import guided as guided_by

CPU = torch.device("cpu")
WIDTH = 50
LOGITS = torch.randn(WIDTH, generator=torch.Generator().manual_seed(4)) * 3


def row(*, prompt=(5, 6, 7), extra=None, **sampling):
    further = FurtherSampling.of(extra or {}, max_tokens=100, vocabulary=WIDTH)
    return request(prompt, further=further, **sampling).sequences[0]


def draw(*rows, logits=LOGITS):
    return sample(logits.repeat(len(rows), 1), SamplingPlan.of(rows, CPU))[0].tolist()


def shares(count=6000, **options):
    rows = [row(seed=i, temperature=1.0, **options) for i in range(count)]
    return torch.bincount(torch.tensor(draw(*rows)), minlength=WIDTH) / count


def theirs(*warpers, temperature=1.0, logits=LOGITS):
    steps = LogitsProcessorList([TemperatureLogitsWarper(temperature), *warpers])
    return steps(torch.tensor([[0]]), logits[None].clone()).softmax(-1)[0]


def ours(temperature=1.0, **extra):
    rows = [row(temperature=temperature, extra=extra)]
    narrowing = Narrowing.of(rows, CPU)
    return narrowing.apply((LOGITS[None] / temperature).softmax(-1), [0])[0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [1, 2, 7, 50, 1000])
def test_top_k_is_transformers(top_k, temperature):
    expected = theirs(TopKLogitsWarper(top_k), temperature=temperature)
    assert torch.allclose(ours(temperature, top_k=top_k), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("min_p", [0.02, 0.2, 0.9, 1.0])
def test_min_p_is_transformers(min_p, temperature):
    expected = theirs(MinPLogitsWarper(min_p), temperature=temperature)
    assert torch.allclose(ours(temperature, min_p=min_p), expected, atol=1e-6)
    assert 0 < (expected > 0).sum() < WIDTH


def test_a_nucleus_is_of_what_top_k_and_min_p_leave():
    expected = theirs(MinPLogitsWarper(0.02), TopKLogitsWarper(4), TopPLogitsWarper(0.8))
    assert 1 < (expected > 0).sum() < 4
    found = shares(extra={"min_p": 0.02, "top_k": 4}, top_p=0.8)
    assert torch.equal(found > 0, expected > 0)
    assert torch.allclose(found, expected, atol=0.03)


def test_draws_follow_what_is_left():
    found = shares(extra={"top_k": 3})
    expected = theirs(TopKLogitsWarper(3))
    assert torch.equal(found > 0, expected > 0)
    assert torch.allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("extra", [{"top_k": 1}, {"min_p": 1.0}, {"min_p": 1}])
def test_the_narrowest_is_greedy(extra):
    best = int(LOGITS.argmax())
    assert set(draw(*[row(temperature=1.5, seed=s, extra=extra) for s in range(50)])) == {best}


def test_top_k_of_one_is_greedy_where_two_are_as_likely():
    tied = torch.zeros(WIDTH)
    rows = [row(temperature=1.0, seed=s, extra={"top_k": 1}) for s in range(20)]
    assert set(draw(*rows, logits=tied)) == {int(tied.argmax())}


@pytest.mark.parametrize("extra", [{"top_k": -1}, {"top_k": 0}, {"min_p": 0}, {"top_k": None}, {"logit_bias": {}}])
def test_neutral_values_change_nothing(extra):
    plain = [draw(row(temperature=1.0, seed=s)) for s in range(20)]
    assert [draw(row(temperature=1.0, seed=s, extra=extra)) for s in range(20)] == plain
    plan = SamplingPlan.of([row(temperature=1.0, extra=extra)], CPU)
    assert plan.shaping is None and plan.narrowing is None


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_the_repetition_penalty_is_transformers_over_prompt_and_answer(penalty):
    sequence = row(prompt=(1, 8, 8, 9), extra={"repetition_penalty": penalty})
    other = row(prompt=(3,), extra={"repetition_penalty": 2.0})
    shaping = Shaping.of([row(), sequence, other], CPU)
    said = [1, 8, 8, 9]
    for token in (20, 21, 8):
        scores = shaping.apply(LOGITS.repeat(3, 1))
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([said]), LOGITS[None].clone())[0]
        assert torch.allclose(scores[1], expected)
        assert torch.equal(scores[0], LOGITS)
        shaping.take(torch.tensor([0, token, 4]))
        said.append(token)
    assert (LOGITS[said] > 0).any() and (LOGITS[said] < 0).any(), "both signs are tried"


def test_a_plan_that_is_made_anew_knows_what_was_said():
    sequence = row(prompt=(1,), extra={"repetition_penalty": 2.0})
    sequence.accept(30, None)
    scores = Shaping.of([sequence], CPU).apply(LOGITS[None])[0]
    assert torch.allclose(scores, RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([[1, 30]]), LOGITS[None].clone()))


def test_a_bias_forces_and_bans():
    best = int(LOGITS.argmax())
    banned = draw(row(extra={"logit_bias": {str(best): -100}}))[0]
    assert banned == int(LOGITS.topk(2).indices[1])
    assert draw(row(extra={"logit_bias": {"17": 100}}), row(extra={"logit_bias": {18: 100.0, "17": 1}})) == [17, 18]
    drawn = [row(temperature=1.0, seed=s, extra={"logit_bias": {str(best): -100}}) for s in range(300)]
    assert best not in draw(*drawn)


def test_tokens_that_end_are_held_back_until_min_tokens():
    ends = torch.zeros(WIDTH)
    ends[EOS] = 9.0
    sequence = row(extra={"min_tokens": 2, "logit_bias": {str(EOS): 100}})
    plan = SamplingPlan.of([sequence, row()], CPU)
    for step in range(3):
        first, second = sample(ends.repeat(2, 1), plan)[0].tolist()
        assert (first == EOS) == (step == 2)
        assert second == EOS
        sequence.accept(first, None)


def test_rows_with_different_values_do_not_touch_each_other():
    extras = [
        {},
        {"top_k": 3},
        {"min_p": 0.3},
        {"repetition_penalty": 3.0},
        {"logit_bias": {"11": 4.0}},
        {"min_tokens": 3},
        {"top_k": 20, "min_p": 0.01, "repetition_penalty": 0.7, "logit_bias": {"30": 3}},
    ]
    for seed in range(40):
        made = [{"extra": e, "temperature": 1.2, "seed": seed, "top_p": p} for e in extras for p in (1.0, 0.9)]
        alone = [draw(row(**options))[0] for options in made]
        assert draw(row(), *(row(**options) for options in made), row(presence_penalty=1.0))[1:-1] == alone


def test_log_probabilities_are_the_model_s_own():
    sequence = row(logprobs=True, extra={"logit_bias": {"17": 100}, "repetition_penalty": 2.0})
    logits = LOGITS[None].clone()
    tokens, likely = sample(logits, SamplingPlan.of([sequence], CPU))
    assert tokens.tolist() == [17]
    assert likely[0].logprob == pytest.approx(float(LOGITS.log_softmax(-1)[17]), abs=1e-5)
    assert torch.equal(logits[0], LOGITS)


@pytest.mark.parametrize("size", [50, 3000])
def test_a_grammar_comes_first(size):
    logits = torch.zeros(size)
    allowed = {3, 4, EOS}

    def run(extra, allowed, **sampling):
        further = FurtherSampling.of(extra, max_tokens=100, vocabulary=size)
        sequence = guided_by(Masked(size, allowed), further=further, **sampling)
        return draw(sequence, logits=logits)[0]

    assert run({"logit_bias": {"9": 100}}, allowed) in allowed
    assert run({"logit_bias": {"4": 1}}, allowed) == 4
    ending = {"logit_bias": {str(EOS): 50}}
    assert run(ending, allowed) == EOS
    assert run({**ending, "min_tokens": 3}, allowed) in {3, 4}
    assert run({**ending, "ignore_eos": True}, allowed) in {3, 4}
    assert run({"min_tokens": 3, "ignore_eos": True, "logit_bias": {str(EOS): -100}}, {EOS}) == EOS
    assert {run({"top_k": 1}, {7, 8}, temperature=1.0, seed=s) for s in range(9)} <= {7, 8}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_shaped(dtype):
    sequence = row(extra={"logit_bias": {"17": 100}, "repetition_penalty": 1.5, "top_k": 5}, temperature=1.0, seed=1)
    assert draw(sequence, row(), logits=LOGITS.to(dtype)) == [17, int(LOGITS.argmax())]
