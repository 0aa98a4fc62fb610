"""A policy, and its outcome on queries whose every estimate is known: the walk from answer to answer.

The paper takes estimates to be normal around what will be known later. What will be known is the estimate after the
answer, so the covariance of that move is counted over the rows that the estimates were cross-fitted on, for each state.
A model's move is relative to that of the best answer so far, which the same answer makes more or less likely (they may
agree): only the difference decides. Moves are in units of sqrt(q (1 - q)): a sure estimate moves little.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.routing.estimates import members
from serve_app.cascade.routing.supermodels import STOP, Form, View, next_model

_LEAST_VARIANCE = 0.0025
"""Of q (1 - q): an estimate of 0.25 % or 99.75 % is not surer than that."""


def unit_of_moves(quality: Floats) -> Floats:
    """sqrt(q (1 - q)) of estimates of any shape."""
    found: Floats = np.sqrt(np.maximum(quality * (1.0 - quality), _LEAST_VARIANCE))
    return found


def fit_moves(quality: Floats) -> Floats:
    """Factors [2 ** K, K, K] from cross-fitted estimates [2 ** K, n, K].

    `factor[called] @ factor[called].T` is the covariance of the moves; rows of models that have answered are 0.
    """
    sets, _, models = quality.shape
    found = np.zeros((sets, models, models))
    for called in range(sets):
        new = [m for m in range(models) if not called >> m & 1]
        if not new:
            continue
        moves = np.stack([_moves(quality, called, m) for m in new], axis=1)
        values, vectors = np.linalg.eigh(moves.T @ moves / len(moves))
        found[called][np.ix_(new, new)] = vectors * np.sqrt(np.maximum(values, 0.0))
    return found


def _moves(quality: Floats, called: int, model: int) -> Floats:
    """[n], in units of moves."""
    now, then = quality[called], quality[called | 1 << model]
    moved = then[:, model] - now[:, model]
    there = members(called, quality.shape[2])
    if there:
        rows = np.arange(len(now))
        best = np.array(there)[now[:, there].argmax(1)]
        moved = moved - (then[rows, best] - now[rows, best])
    found: Floats = moved / unit_of_moves(now[:, model])
    return found


@dataclass(frozen=True, slots=True)
class NextModelPolicy:
    """λ of the first decision, in quality for a US dollar; later ones pay `later` times as much (inf: one model only).

    `spread` scales how far estimates are taken to move: 0 takes them as certain. `models` is the mask of those that
    may be called at all. `margin`: how much better an answer must look than that of the strongest model called, to be
    taken instead.
    """

    price: float
    later: float = 1.0
    spread: float = 1.0
    form: Form = "any"
    models: int = -1
    margin: float = 0.0

    def next(
        self, called: int, quality: Floats, cost: Floats, move: Floats, allowed: int | None = None
    ) -> NDArray[np.int64]:
        """For queries [n, K] in one state the model to call next, or STOP. `allowed` replaces `models`."""
        factor = move * self.spread if self.spread else np.zeros_like(move)
        view = View(called, quality, cost, factor, unit_of_moves(quality), self.models if allowed is None else allowed)
        return next_model(view, self.price * self.later if called and self.price else self.price, self.form)


def always(model: int) -> NextModelPolicy:
    """Calls one model, whatever the query."""
    return NextModelPolicy(price=0.0, spread=0.0, form="single", models=1 << model)


@dataclass(frozen=True, slots=True)
class Tables:
    """Estimates of n queries in every state, and the truth: `quality` and `cost` [2 ** K, n, K] as estimated, `move`
    [2 ** K, K, K]; `ok` and `cost_usd` [n, K] as recorded.
    """

    quality: Floats
    cost: Floats
    move: Floats
    ok: Floats
    cost_usd: Floats


@dataclass(frozen=True, slots=True)
class Walked:
    """For each query [n]: quality of the answer taken, all that was spent, which models answered (mask), and whose
    answer it is.
    """

    quality: Floats
    cost_usd: Floats
    called: NDArray[np.int64]
    answer: NDArray[np.int64]


def walk(tables: Tables, policy: NextModelPolicy) -> Walked:
    """Every query to its end."""
    n, models = tables.ok.shape
    called = np.zeros(n, dtype=np.int64)
    going = np.ones(n, dtype=bool)
    spent = np.zeros(n)
    while going.any():
        for state in np.unique(called[going]).tolist():
            rows = np.flatnonzero(going & (called == state))
            quality, cost = tables.quality[state][rows], tables.cost[state][rows]
            chosen = policy.next(state, quality, cost, tables.move[state])
            going[rows[chosen == STOP]] = False
            rows, chosen = rows[chosen != STOP], chosen[chosen != STOP]
            spent[rows] += tables.cost_usd[rows, chosen]
            called[rows] |= 1 << chosen
        going &= called != 2**models - 1
    answer = best_answer(called, tables.quality[called, np.arange(n)], tables.quality[0], policy.margin)
    return Walked(tables.ok[np.arange(n), answer], spent, called, answer)


def best_answer(called: NDArray[np.int64], quality: Floats, before: Floats, margin: float) -> NDArray[np.int64]:
    """Of the models that answered (masks [n]) the one whose answer is taken, by estimates [n, K].

    That is the strongest one, as estimated `before` any answer, unless another's answer looks better by `margin`. The
    difference of two answers' estimates is the least certain of all figures: a model's standing is known far better.
    """
    there = (called[:, None] >> np.arange(quality.shape[1]) & 1).astype(bool)
    rows = np.arange(len(called))
    strongest: NDArray[np.int64] = np.where(there, before, -1.0).argmax(1)
    best: NDArray[np.int64] = np.where(there, quality, -1.0).argmax(1)
    ahead = quality[rows, best] > quality[rows, strongest] + margin
    return np.where(ahead, best, strongest)
