"""The bilinear model against its definition, and that its training learns, holds back and stops."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from serve_app.routing.kinds.matrix_factorization.factorization import (
    Battles,
    FactorRecipe,
    Factors,
    _Net,
    _split,
    train_factors,
)

QUICK = FactorRecipe(dimensions=16, epochs=30, least_steps=0, learning_rate=1e-2)


def factors(seed: int = 0, models: int = 5, dimensions: int = 7, width: int = 11) -> Factors:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(models, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shapes = (dimensions, width), (dimensions,)
    rest = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return Factors(vectors.astype(np.float32), *rest)


def unfused(parts: Factors, strong: int, weak: int, embedding: np.ndarray) -> float:
    """The two logits as the paper writes them, each on its own, in torch."""
    layers = [torch.nn.Linear(11, 7, bias=False), torch.nn.Linear(7, 1, bias=False)]
    with torch.no_grad():
        layers[0].weight.copy_(torch.from_numpy(parts.projection))
        layers[1].weight.copy_(torch.from_numpy(parts.weights)[None])
        projected = layers[0](torch.from_numpy(embedding))
        logits = [layers[1](torch.from_numpy(parts.models[m]) * projected).item() for m in (strong, weak)]
    return logits[0] - logits[1]


@pytest.mark.parametrize("seed", range(5))
def test_one_dot_product_is_the_difference_of_both_logits(seed: int) -> None:
    parts = factors(seed)
    embedding = np.random.default_rng(seed + 100).normal(size=11).astype(np.float32)
    for strong, weak in ((0, 1), (4, 2), (3, 3)):
        expected = unfused(parts, strong, weak, embedding)
        assert_allclose(parts.direction(strong, weak) @ embedding, expected, rtol=1e-4, atol=1e-5)
        both = parts.logits(embedding)
        assert_allclose(both[strong] - both[weak], expected, rtol=1e-4, atol=1e-5)


def world(n: int, seed: int) -> tuple[np.ndarray, Battles]:
    """Model 0 beats 1 where the first number of the embedding is positive; 1 beats 2 everywhere (2 is weakest)."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n, 12)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings[:, 1] = 0.5  # a bias-free model needs a direction that all prompts share
    others = rng.random(n) < 0.3
    zero_wins = embeddings[:, 0] > 0
    first = np.where(others, 1, np.where(zero_wins, 0, 1))
    second = np.where(others, 2, np.where(zero_wins, 1, 0))
    return embeddings, Battles(np.arange(n), first, second, np.ones(n, np.float32))


def test_training_tells_models_and_prompts_apart() -> None:
    embeddings, battles = world(600, seed=1)
    lines: list[str] = []
    found, epochs = train_factors(embeddings, battles, 3, QUICK, 0, lines.append)
    unseen, _ = world(300, seed=2)
    margin = unseen @ found.direction(0, 1).astype(np.float32)
    assert ((margin > 0) == (unseen[:, 0] > 0)).mean() > 0.9
    assert (unseen @ found.direction(1, 2).astype(np.float32) > 0).mean() > 0.9
    assert 1 <= epochs <= 30 and lines[0].startswith("epoch 1: loss ") and "held-back" in lines[0]
    assert_allclose(np.linalg.norm(found.models, axis=1), 1.0, rtol=1e-5)


def test_training_repeats_itself_and_differs_by_seed() -> None:
    embeddings, battles = world(200, seed=3)
    one, again, other = (train_factors(embeddings, battles, 3, QUICK, s, print)[0] for s in (0, 0, 1))
    assert np.array_equal(one.projection, again.projection) and np.array_equal(one.models, again.models)
    assert not np.array_equal(one.projection, other.projection)


def test_a_tie_is_learned_as_half_a_win() -> None:
    embeddings = np.tile(np.eye(4, dtype=np.float32)[:1], (200, 1))
    zeros = np.zeros(200, dtype=np.int64)
    tied = Battles(np.arange(200), zeros, zeros + 1, np.full(200, 0.5, np.float32))
    found, _ = train_factors(embeddings, tied, 2, QUICK, 0, lambda line: None)
    assert abs(found.direction(0, 1) @ embeddings[0]) < 0.05


def test_it_stops_where_held_back_battles_get_worse() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(400, 64)).astype(np.float32)
    coin = rng.integers(0, 2, 400)
    noise = Battles(np.arange(400), coin, 1 - coin, np.ones(400, np.float32))
    lines: list[str] = []
    recipe = FactorRecipe(dimensions=16, epochs=200, least_steps=0, learning_rate=1e-2, noise=0.0)
    _, best = train_factors(embeddings, noise, 2, recipe, 0, lines.append)
    assert best < 50 and len(lines) == best + 20  # a tenth of the epochs without a better one


def test_few_battles_are_all_learned_from_and_get_more_epochs() -> None:
    embeddings, battles = world(40, seed=5)
    assert len(_split(battles, 0.05, 0)[1]) == 0
    recipe = FactorRecipe(dimensions=8, epochs=2, least_steps=10)
    lines: list[str] = []
    assert train_factors(embeddings, battles, 3, recipe, 0, lines.append)[1] == len(lines) == 10
    assert FactorRecipe().most_epochs(300) == 1_000 and FactorRecipe().most_epochs(100_000) == 100


def test_all_battles_of_a_prompt_are_held_back_together() -> None:
    prompt = np.repeat(np.arange(100), 5)
    zeros = np.zeros(500, dtype=np.int64)
    learn, judge = _split(Battles(prompt, zeros, zeros + 1, np.ones(500, np.float32)), 0.1, 0)
    assert len(judge) == 50 and len(learn) == 450
    assert not set(judge.prompt) & set(learn.prompt)


@pytest.mark.parametrize("seed", range(5))
def test_gradients_written_out_are_those_of_autograd(seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    net = _Net(11, 4, 7, dice)
    first, second = torch.randint(0, 4, (2, 30), generator=dice)
    won = torch.where(torch.rand(30, generator=dice) < 0.5, 0.5, 1.0)
    battles = [torch.arange(30), first, second, won]  # some of one model against itself
    prompts = torch.randn(30, 11, generator=dice)
    loss = net.loss(prompts, battles)
    expected = torch.autograd.grad(loss, net.parameters)
    with torch.no_grad():
        found = net.differentiate(prompts, battles)
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-6)
    for tensor, gradient in zip(net.parameters, expected, strict=True):
        assert tensor.grad is not None
        assert_allclose(tensor.grad.numpy(), gradient.numpy(), rtol=1e-4, atol=1e-7)
