"""Gradients against torch, targets by hand, the prior."""

import numpy as np
import pytest

from serve_app.streams.online.deferral import (
    Adam,
    LabeledEpisodes,
    advantages,
    backward,
    forward,
    inputs,
    margin_urge,
    new_network,
    paper_slopes,
)
from serve_app.streams.online.learner import OnlineCascade


def probabilities(n: int, seed: int = 0, labels: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(labels), size=n)


@pytest.mark.parametrize("twice", [False, True])
def test_the_papers_objective_has_the_gradient_that_torch_finds(twice):
    import torch

    rng = np.random.default_rng(1)
    episodes = LabeledEpisodes(np.stack([probabilities(6, s) for s in (1, 2, 3)], axis=1), rng.integers(4, size=6))
    networks = [new_network(4, False, rng) for _ in range(3)]
    prices, targets = np.array([0.1, 0.5, 1.4]), np.minimum(1, episodes.wrong + np.array([0.15, 0.3, 0.45]))
    f = np.stack([forward(w, inputs(episodes.probabilities[:, j], False)) for j, w in enumerate(networks)], axis=1)
    slopes = paper_slopes(f, episodes.cross_entropy(twice), prices, targets)

    leaves = [{k: torch.tensor(v, requires_grad=True) for k, v in w.items()} for w in networks]
    p, labels = torch.tensor(episodes.probabilities), torch.tensor(episodes.labels)
    total, reach = torch.zeros(()), torch.ones(6)
    for j, w in enumerate(leaves):
        fj = torch.sigmoid(torch.relu(p[:, j] @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"])
        logs = torch.log_softmax(p[:, j], dim=1) if twice else torch.log(p[:, j])
        loss = -logs[torch.arange(6), labels]
        inner = (1 - fj) * loss + fj * prices[j]
        total = total + (reach * inner).mean() + ((fj - torch.tensor(targets[:, j])) ** 2).mean()
        reach = reach * fj
    total.backward()
    for j, w in enumerate(networks):
        ours = backward(w, inputs(episodes.probabilities[:, j], False), slopes[:, j])
        for name, gradient in ours.items():
            np.testing.assert_allclose(gradient, leaves[j][name].grad.numpy(), atol=1e-10)


def test_with_the_prior_the_gradient_is_that_of_finite_differences():
    weights = new_network(4, True, np.random.default_rng(0))
    weights["w2"] = np.random.default_rng(1).normal(size=128)
    read, target = inputs(probabilities(5), True), np.linspace(0, 1, 5)

    def loss() -> float:
        return float(((forward(weights, read) - target) ** 2).sum())

    gradients = backward(weights, read, 2 * (forward(weights, read) - target))
    for name, at in (("w1", (2, 7)), ("b1", (3,)), ("w2", (9,)), ("b2", (0,))):
        kept = weights[name][at]
        weights[name][at] = kept + 1e-6
        above = loss()
        weights[name][at] = kept - 1e-6
        slope = (above - loss()) / 2e-6
        weights[name][at] = kept
        assert gradients[name][at] == pytest.approx(slope, abs=1e-6)


def test_an_untaught_network_with_the_prior_ranks_by_margin():
    p = probabilities(50)
    f = forward(new_network(4, True, np.random.default_rng(0)), inputs(p, True))
    ordered = np.sort(p, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    np.testing.assert_allclose(f, 1 - np.clip(margin, 1e-3, 1 - 1e-3) / 2)


def test_the_top_levels_target_is_its_being_wrong():
    wrong = np.array([[1.0], [0.0]])
    targets = advantages(np.array([[0.9], [0.1]]), wrong, np.array([0.3]), np.zeros(1))
    np.testing.assert_allclose(targets[:, 0], [1.0, 0.5])


def test_a_level_asks_on_only_where_the_levels_above_do_better():
    # rows: above answers rightly, answers wrongly, defers at a price of .4; the lower level is wrong in all
    f = np.array([[0.9, 0.5], [0.9, 0.5], [0.9, 0.9]])
    wrong = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    targets = advantages(f, wrong, np.array([0.0, 0.4]), np.zeros(2))
    np.testing.assert_allclose(targets[:, 0], [1.0, 0.5, 0.8])


def test_caution_raises_the_target_of_a_level():
    f, wrong, prices = np.array([[0.1, 0.5]]), np.zeros((1, 2)), np.array([0.0, 0.4])
    assert advantages(f, wrong, prices, np.array([0.2, 0.0]))[0, 0] == pytest.approx(0.6)


def test_adam_is_torchs():
    import torch

    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(3, 2))}
    leaf = torch.tensor(weights["w1"].copy(), requires_grad=True)
    theirs, ours = torch.optim.Adam([leaf], lr=0.01), Adam(weights, 0.01)
    for _ in range(5):
        gradient = rng.normal(size=(3, 2))
        weights = ours.step(weights, {"w1": gradient})
        leaf.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(weights["w1"], leaf.detach().numpy(), atol=1e-9)


def test_the_margin_is_what_an_untaught_network_says():
    p = probabilities(50)
    f = forward(new_network(4, True, np.random.default_rng(0)), inputs(p, True))
    np.testing.assert_allclose([margin_urge(row) for row in p], f, atol=1e-3)  # the network's is clipped


def test_by_default_nothing_of_deferral_is_learned_or_published(spec, queries, driven):
    learner = OnlineCascade(spec())
    driven(learner, queries(300, 0))
    assert not [name for name in learner.policy().arrays() if ".deferral." in name]
    assert learner.state()[0]["deferral.episodes"].size == 0
    assert learner.beta == (0.0,)
    episode = learner.policy().act("redword1 redword2", None)
    assert episode.deferral == (margin_urge(np.array(episode.probabilities[0])),)
