"""Matrix factorisation of battles: a vector per model, and a projection that takes a prompt's embedding to them.

The bilinear model of RouteLLM (Ong et al. 2024, arXiv 2406.18665, section 4.2): model M has on prompt embedding q the
logit d(M, q) = w · (v_M * (W q)), with v_M at unit length and no bias anywhere, and beats model L with probability
sigmoid(d(M, q) - d(L, q)). Nothing here knows queries or files.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.errors import needs_extra

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]
Positions = NDArray[np.int64]

_FEWEST_HELD_BACK = 10
"""Battles; with fewer, all epochs run."""


@dataclass(frozen=True, slots=True)
class FactorRecipe:
    """How factors are trained; the values are those of RouteLLM's released script unless said otherwise."""

    dimensions: int = 128
    epochs: int = 100
    least_steps: int = 5_000
    """Of few battles, epochs are added until there are so many steps: 100 epochs of 300 battles are 500 steps."""
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    batch: int = 64
    noise: float = 0.05
    """Standard deviation of what is added to each number of an embedding, anew each time it is seen.

    0.1 in the script, whose embeddings have 1,536 numbers.
    """
    held_back: float = 0.05
    """Share of the prompts that are held back to choose the best epoch."""
    patience: float = 0.1
    """Share of the epochs after which training stops if none of them was better; the script runs all."""

    def most_epochs(self, battles: int) -> int:
        """Epochs that so many battles are trained for at most."""
        return max(self.epochs, ceil(self.least_steps / ceil(battles / self.batch)))


@dataclass(frozen=True, slots=True)
class Battles:
    """n battles: positions of the prompt, of the first and of the second model, and how much of the win is the first's.

    All of shape [n]; `won` is 1 for a win and 0.5 for a tie.
    """

    prompt: Positions
    first: Positions
    second: Positions
    won: Vectors

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, which: NDArray[Any]) -> "Battles":
        """Some of them, by position or mask."""
        return Battles(self.prompt[which], self.first[which], self.second[which], self.won[which])


@dataclass(frozen=True, slots=True)
class Factors:
    """Unit vectors of the models [m, d], projection W [d, e] and weights w [d]."""

    models: Vectors
    projection: Vectors
    weights: Vectors

    def logits(self, embedding: Vectors) -> Floats:
        """d(M, q) of every model for one prompt's embedding of shape [e]: shape [m]."""
        logits: Floats = (self.models * (self.projection @ embedding)) @ self.weights
        return logits.astype(np.float64)

    def direction(self, strong: int, weak: int) -> Floats:
        """The vector u, shape [e], with u · q = d(strong, q) - d(weak, q).

        d(S, q) - d(L, q) = sum_k w_k (v_Sk - v_Lk) (W q)_k = (W^T (w * (v_S - v_L))) · q.
        """
        gap = (self.models[strong].astype(np.float64) - self.models[weak]) * self.weights
        turned: Floats = self.projection.T.astype(np.float64) @ gap
        return turned


def train_factors(
    embeddings: Vectors, battles: Battles, models: int, recipe: FactorRecipe, seed: int, report: Callable[[str], None]
) -> tuple[Factors, int]:
    """Factors that fit the battles, and after how many epochs; embeddings of shape [prompts, e].

    Minimises cross-entropy of the winner minus the loser with Adam. The epoch with the least loss on prompts that are
    held back wins. Raises DependencyError without torch.
    """
    with needs_extra("training mf needs torch", "encoders"):
        import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small: threads would wait for each other, on a busy machine for minutes
    try:
        return _trained(embeddings, battles, models, recipe, seed, report)
    finally:
        torch.set_num_threads(threads)


def _trained(
    embeddings: Vectors, battles: Battles, models: int, recipe: FactorRecipe, seed: int, report: Callable[[str], None]
) -> tuple[Factors, int]:
    import torch

    dice = torch.Generator().manual_seed(seed)
    net = _Net(embeddings.shape[1], models, recipe.dimensions, dice)
    learn, others = _split(battles, recipe.held_back, seed)
    rows, held_back = _tensors(learn), _tensors(others)
    prompts = torch.from_numpy(np.ascontiguousarray(embeddings))
    rate, decay = recipe.learning_rate, recipe.weight_decay
    # for three tensors, each by itself takes a quarter less time, and learns the same
    optimizer = torch.optim.Adam(net.parameters, lr=rate, weight_decay=decay, foreach=False)
    best, best_loss, best_epoch = net, float("inf"), 0
    most = recipe.most_epochs(len(learn))
    for epoch in range(1, most + 1):
        mean = _one_epoch(net, optimizer, prompts, rows, (recipe, dice))
        if len(others) == 0:
            report(f"epoch {epoch}: loss {mean:.4f}")
            best, best_epoch = net, epoch
            continue
        with torch.no_grad():
            loss = float(net.loss(prompts[held_back[0]], held_back))
        report(f"epoch {epoch}: loss {mean:.4f}, on held-back battles {loss:.4f}")
        if loss < best_loss:
            best, best_loss, best_epoch = deepcopy(net), loss, epoch
        if epoch - best_epoch >= recipe.patience * most:
            break
    return best.factors(), best_epoch


def _one_epoch(
    net: "_Net",
    optimizer: "torch.optim.Optimizer",
    prompts: "torch.Tensor",
    battles: list["torch.Tensor"],
    how: tuple[FactorRecipe, "torch.Generator"],
) -> float:
    """One pass over the battles, in random order. Returns the mean loss."""
    import torch

    recipe, dice = how
    order = torch.randperm(len(battles[0]), generator=dice)
    total = 0.0
    for start in range(0, len(order), recipe.batch):
        at = order[start : start + recipe.batch]
        batch = [column[at] for column in battles]
        seen = prompts[batch[0]]
        with torch.no_grad():
            loss = net.differentiate(seen + recipe.noise * torch.randn(seen.shape, generator=dice), batch)
        optimizer.step()
        total += float(loss) * len(at)
    return total / len(order)


class _Net:
    """The three tensors, initialised as torch's Embedding and Linear layers are."""

    def __init__(self, width: int, models: int, dimensions: int, dice: "torch.Generator") -> None:
        import torch

        def uniform(rows: int, fan_in: int) -> torch.Tensor:
            drawn: torch.Tensor = (torch.rand(rows, fan_in, generator=dice) * 2 - 1) * float(fan_in) ** -0.5
            return drawn

        self.vectors = torch.randn(models, dimensions, generator=dice).requires_grad_()
        self.projection = uniform(dimensions, width).requires_grad_()
        self.weights = uniform(1, dimensions)[0].requires_grad_()

    @property
    def parameters(self) -> list["torch.Tensor"]:
        return [self.vectors, self.projection, self.weights]

    def loss(self, prompts: "torch.Tensor", battles: list["torch.Tensor"]) -> "torch.Tensor":
        """Mean cross-entropy of battles (prompt, first, second, won); prompts are their embeddings, shape [n, e]."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits, normalize

        _, first, second, won = battles
        unit = normalize(self.vectors, dim=1)
        logits: torch.Tensor = ((unit[first] - unit[second]) * (prompts @ self.projection.T)) @ self.weights
        loss: torch.Tensor = binary_cross_entropy_with_logits(logits, won)
        return loss

    def differentiate(self, prompts: "torch.Tensor", battles: list["torch.Tensor"]) -> "torch.Tensor":
        """`loss`, with its gradients in the three tensors: written out, they take half the time of torch's own.

        With unit vectors u = v / |v|, gaps g = u_first - u_second, m = g * (W q) and logits z = m · w.
        """
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        _, first, second, won = battles
        length = self.vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)
        unit = self.vectors / length
        gaps, projected = unit[first] - unit[second], prompts @ self.projection.T
        products = gaps * projected
        logits = products @ self.weights
        by_logit = (torch.sigmoid(logits) - won) / len(won)
        by_product = torch.outer(by_logit, self.weights)
        by_gap = by_product * projected
        by_unit = torch.zeros_like(unit).index_add_(0, first, by_gap).index_add_(0, second, -by_gap)
        self.weights.grad = products.T @ by_logit
        self.projection.grad = (by_product * gaps).T @ prompts
        self.vectors.grad = (by_unit - unit * (by_unit * unit).sum(1, keepdim=True)) / length
        loss: torch.Tensor = binary_cross_entropy_with_logits(logits, won)
        return loss

    def factors(self) -> Factors:
        from torch.nn.functional import normalize

        unit = normalize(self.vectors.detach(), dim=1)
        return Factors(unit.numpy(), self.projection.detach().numpy(), self.weights.detach().numpy())


def _split(battles: Battles, share: float, seed: int) -> tuple[Battles, Battles]:
    """Battles to learn from and battles held back; all battles of a prompt are in one part."""
    prompts = np.unique(battles.prompt)
    picked = np.random.default_rng(seed).permutation(prompts)[: round(share * len(prompts))]
    held_back = np.isin(battles.prompt, picked)
    if held_back.sum() < _FEWEST_HELD_BACK or held_back.all():
        held_back[:] = False
    return battles.take(~held_back), battles.take(held_back)


def _tensors(battles: Battles) -> list["torch.Tensor"]:
    import torch

    return [torch.from_numpy(c) for c in (battles.prompt, battles.first, battles.second, battles.won)]
