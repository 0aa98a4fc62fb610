"""Rankers that serve: the pair ranker and the pointwise reward model, over one kind of saved folder.

All comparisons of a call share forward passes, whichever requests they are of: sorted by length, so that little is
padding, and bounded in tokens. Each text is tokenized once, each distinct comparison made once, and equal texts are
never compared: their logit is 0.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from serve_app.arrays import Floats
from serve_app.data.mixinstruct import ScoredCandidates
from serve_app.ensemble.base import Comparison
from serve_app.ensemble.ranking.aggregation import POLICIES, Policy, best_of, bubble
from serve_app.ensemble.ranking.files import (
    digest_of,
    load_network,
    new_network,
    round_weights,
    save_network,
    stored_weights,
)
from serve_app.ensemble.ranking.lower_states import LowerStates, lower_of, passes, row_lengths, subset
from serve_app.ensemble.ranking.model_prior import MOST, ModelPrior, fit_prior, model_strengths
from serve_app.ensemble.ranking.network import Lower, NetworkShape, Parts, RankingNetwork
from serve_app.ensemble.ranking.training import RankingLearner, RankingRecipe, checkpoint_of, train
from serve_app.errors import ConfigError
from serve_app.learning.encoder import narrowed

Request = tuple[str, Sequence[str]]
"""A source and its candidates."""
OneOrder = tuple[str, str, str]
"""Source, left candidate, right candidate, in this order alone."""


class LearnedRanker:
    """What both kinds share: training, the folder, the version. Not thread-safe: see `ranking.service`."""

    kind: str
    form: str

    def __init__(
        self, network: RankingNetwork, weights: bytes, about: dict[str, Any], prior: ModelPrior | None = None
    ) -> None:
        """`weights`: what `stored_weights` made of the network."""
        self.network, self.about, self.prior, self._weights = network, about, prior, weights
        self._digest = digest_of(network, weights, prior)
        self.states: LowerStates | None = None
        """Kept states of lower layers, for many calls over the same texts; None in service."""

    @property
    def version(self) -> str:
        """`<kind>-<digest>`."""
        return f"{self.kind}-{self._digest}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that it was trained on."""
        return self.network.shape.metrics

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The ranker of a folder. Raises ConfigError naming the file, also for one of the other kind."""
        network, weights, prior, about = load_network(folder)
        if network.shape.form != cls.form:
            raise ConfigError(f"{folder}: holds a {network.shape.form} ranker, not a {cls.form} one")
        return cls(network, weights, about, prior)

    def save(self, folder: Path) -> None:
        """Write the folder that `load` reads."""
        save_network(self.network, self._weights, self.prior, self.about, folder)

    def narrow(self) -> Self:
        """Linear layers of the encoder in bfloat16, where the CPU has it: faster, and scores differ by about 1e-3."""
        narrowed(self.network.body)
        return self

    def compare(self, comparisons: Sequence[Comparison]) -> Floats:
        """See `Ranker`."""
        there = self.logits([(c.source, c.left, c.right) for c in comparisons])
        back = self.logits([(c.source, c.right, c.left) for c in comparisons])
        averaged: Floats = (there - back) / 2
        return averaged

    def logits(self, pairs: Sequence[OneOrder]) -> Floats:
        """The logit of each pair in the order given, shape [n]; 0 for equal texts."""
        raise NotImplementedError

    def scores(self, source: str, candidates: Sequence[str]) -> Floats:
        """See `Ranker`."""
        return self.scores_of([(source, candidates)])[0]

    def scores_of(self, requests: Sequence[Request]) -> list[Floats]:
        """See `Ranker`."""
        return self.aggregated(requests, "max_logits")

    def logits_of(self, scores: Floats) -> Floats:
        """`scores` as logits: candidate i is better than j with the chance sigmoid(logit i - logit j)."""
        return scores / (2 * len(scores))

    def scores_from(self, logits: Floats) -> Floats:
        """MaxLogits over the differences of `logits_of`."""
        scores: Floats = 2 * len(logits) * (logits - logits.mean())
        return scores

    def informed(self, scores: Floats, models: Sequence[str]) -> Floats:
        """`scores` with what is known of the models that wrote the candidates: see `model_prior`.

        As they are where there is no prior, or where it does not know a model.
        """
        if self.prior is None or not self.prior.knows(models):
            return scores
        return self.scores_from(self.prior.added(self.logits_of(scores), models))

    def aggregated(self, requests: Sequence[Request], policy: Policy) -> list[Floats]:
        """Scores of each request's candidates by a policy over its whole matrix."""
        return [POLICIES[policy](matrix) for matrix in self.matrices(requests)]

    def matrices(self, requests: Sequence[Request]) -> list[Floats]:
        """Each request's logits [n, n], row the left candidate, column the right one; 0 on the diagonal."""
        ordered = [[(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j] for _, texts in requests]
        flat = [
            (source, texts[i], texts[j])
            for (source, texts), pairs in zip(requests, ordered, strict=True)
            for i, j in pairs
        ]
        logits, found, at = self.logits(flat), list[Floats](), 0
        for (_, texts), pairs in zip(requests, ordered, strict=True):
            matrix = np.zeros((len(texts), len(texts)))
            matrix[[i for i, _ in pairs], [j for _, j in pairs]] = logits[at : at + len(pairs)]
            at += len(pairs)
            found.append(matrix)
        return found

    def best(self, source: str, candidates: Sequence[str], policy: Policy = "max_logits") -> tuple[int, int]:
        """Position of the policy's winner, and the pairs compared for it: see `best_of` for what is guaranteed."""
        return best_of(len(candidates), self._both_orders(source, candidates), policy, self.network.bound)

    def bubble(self, source: str, candidates: Sequence[str], seed: int = 0, worst: bool = False) -> int:
        """Position of the winner of one pass of neighbors, or of the loser: n - 1 comparisons."""
        return bubble(len(candidates), self._both_orders(source, candidates), np.random.default_rng(seed), worst)

    def _lower(self, parts: Parts) -> Lower:
        return lower_of(self.network, parts) if self.states is None else self.states.of(self.network, parts)

    def _both_orders(
        self, source: str, texts: Sequence[str]
    ) -> Callable[[Sequence[tuple[int, int]]], tuple[Floats, Floats]]:
        def compare(pairs: Sequence[tuple[int, int]]) -> tuple[Floats, Floats]:
            orders = [*((i, j) for i, j in pairs), *((j, i) for i, j in pairs)]
            logits = self.logits([(source, texts[i], texts[j]) for i, j in orders])
            return logits[: len(pairs)], logits[len(pairs) :]

        return compare


class PairRanker(LearnedRanker):
    """LLM-Blender's PairRanker (Jiang et al. 2023); see `ranking.network` for the network and its staged form."""

    kind, form = "pairranker", "pair"

    def logits(self, pairs: Sequence[OneOrder]) -> Floats:
        """See `LearnedRanker`."""
        distinct = sorted({pair for pair in pairs if pair[1] != pair[2]})
        parts, at = parts_of(self.network, [(s, text) for s, *both in distinct for text in both])
        places = [(at[s, left], at[s, right]) for s, left, right in distinct]
        with torch.inference_mode():
            values = self._staged(parts, places) if self.network.staged else self._whole(parts, places)
        found = dict(zip(distinct, values.tolist(), strict=True))
        return np.array([found.get(pair, 0.0) for pair in pairs], dtype=np.float64)

    def _whole(self, parts: Parts, places: Sequence[tuple[int, int]]) -> Floats:
        lengths = [len(parts.sources[parts.source_of[i]]) + len(parts.candidates[i]) + len(parts.candidates[j])
                   for i, j in places]  # fmt: skip
        values = np.zeros(len(places))
        for chosen in passes(lengths):
            values[chosen] = _logit(*self.network(parts, [places[k] for k in chosen]))
        return values

    def _staged(self, parts: Parts, places: Sequence[tuple[int, int]]) -> Floats:
        """One order of each pair: the other has the same logit with the other sign."""
        one = sorted({(min(i, j), max(i, j)) for i, j in places})
        found = dict(zip(one, self._one_order(parts, one).tolist(), strict=True))
        return np.array([found[i, j] if i < j else -found[j, i] for i, j in places])

    def _one_order(self, parts: Parts, places: Sequence[tuple[int, int]]) -> Floats:
        lower = self._lower(parts)
        values = np.zeros(len(places))
        for chosen in self._joint_passes(lower, places):
            own = sorted({place for k in chosen for place in places[k]})
            position = {place: number for number, place in enumerate(own)}
            pairs = [(position[places[k][0]], position[places[k][1]]) for k in chosen]
            values[chosen] = _logit(*self.network.upper(lower.picked(own), pairs))
        return values

    def _joint_passes(self, lower: Lower, places: Sequence[tuple[int, int]]) -> Iterable[list[int]]:
        """All pairs of a source where only the last layer is joint, whose cost is by candidate; else by tokens."""
        if self.network.shape.joint_layers != 1:
            length = [len(states) for states in lower.candidates]
            return passes([len(lower.sources[lower.source_of[i]]) + length[i] + length[j] for i, j in places])
        found: dict[int, list[int]] = {}
        for number, (i, _) in enumerate(places):
            found.setdefault(lower.source_of[i], []).append(number)
        return found.values()


class RewardModel(LearnedRanker):
    """A pointwise reward model: one value for each candidate alone; a logit is a difference of two (Bradley-Terry)."""

    kind, form = "reward", "pointwise"

    def values(self, texts: Sequence[tuple[str, str]]) -> Floats:
        """The value of each (source, candidate), the mean over metrics, shape [n]."""
        parts, at = parts_of(self.network, texts)
        lengths = row_lengths(parts)
        values = np.zeros(len(lengths))
        with torch.inference_mode():
            lower = self._lower(parts) if self.network.staged else None
            for chosen in passes(lengths):
                own = self.network.values(subset(parts, chosen)) if lower is None else self._upper(lower, chosen)
                values[chosen] = own.double().mean(1).numpy()
        return values[[at[text] for text in texts]]

    def _upper(self, lower: Lower, chosen: Sequence[int]) -> Any:
        return self.network.upper_values(lower.picked(chosen))

    def logits(self, pairs: Sequence[OneOrder]) -> Floats:
        """See `LearnedRanker`."""
        values = self.values([(source, text) for source, *both in pairs for text in both])
        differences: Floats = values[0::2] - values[1::2]
        return differences

    def scores_of(self, requests: Sequence[Request]) -> list[Floats]:
        """The values themselves: they order candidates as MaxLogits over their differences does."""
        values = self.values([(source, text) for source, texts in requests for text in texts])
        ends = np.cumsum([len(texts) for _, texts in requests])
        return list(np.split(values, ends[:-1])) if requests else []

    def logits_of(self, scores: Floats) -> Floats:
        """The values themselves."""
        return scores

    def scores_from(self, logits: Floats) -> Floats:
        """The values themselves."""
        return logits


def fit_ranker(
    examples: Sequence[ScoredCandidates],
    shape: NetworkShape,
    recipe: RankingRecipe,
    report: Callable[[str], None],
    checkpoint: Path | None = None,
    states: LowerStates | None = None,
) -> "PairRanker | RewardModel":
    """Train a ranker on scored candidates; with `checkpoint`, a folder, a killed run resumes to the same result.

    `states`: see `LowerStates`. Raises DataError where there is nothing to learn from.
    """
    widths = {example.scores.shape for example in examples if example.scores.shape[1] != len(shape.metrics)}
    if widths:
        raise ConfigError(f"scores of shape {min(widths)} do not fit the metrics {', '.join(shape.metrics)}")
    texts = [text for example in examples for text in (example.source, *example.candidates)]
    network = new_network(recipe.encoder, shape, recipe.seed, texts)
    learner = RankingLearner(network, network.tokens, examples, recipe, states)
    recorded = {**asdict(recipe), "encoder": Path(recipe.encoder).name}
    error = train(learner, recipe, report, checkpoint_of(checkpoint, examples, recipe, shape))
    network.requires_grad_(False)
    round_weights(network)
    held_back = None if np.isnan(error) else error
    about = {"recipe": recorded, "examples": len(examples), "held_back_error": held_back}
    made = PairRanker if shape.form == "pair" else RewardModel
    weights = stored_weights(network)
    return made(network, weights, about, _prior(made(network, weights, about), learner, states))


def _prior(ranker: LearnedRanker, learner: RankingLearner, states: LowerStates | None) -> ModelPrior | None:
    """What is known of the models that wrote the candidates; None where that is nothing."""
    by_model, held_back = model_strengths(learner.inside), learner.outside[:MOST]
    if not by_model:
        return None
    ranker.states = states
    values = [ranker.logits_of(ranker.scores(example.source, example.candidates)) for example in held_back]
    return fit_prior(by_model, held_back, values)


def load_ranker(folder: Path) -> "PairRanker | RewardModel":
    """The ranker of a folder, of either kind. Raises ConfigError naming the file and what to do."""
    network, weights, prior, about = load_network(folder)
    made = PairRanker if network.shape.form == "pair" else RewardModel
    return made(network, weights, about, prior)


def parts_of(network: RankingNetwork, texts: Sequence[tuple[str, str]]) -> tuple[Parts, dict[tuple[str, str], int]]:
    """The token ids of each distinct (source, candidate), and where each is."""
    by_source: dict[str, dict[str, None]] = {}
    for source, text in texts:
        by_source.setdefault(source, {})[text] = None
    parts, at = Parts([], [], []), dict[tuple[str, str], int]()
    for source, own in by_source.items():
        ids = network.tokens.source(source)
        for text, part in zip(own, network.tokens.candidates(list(own), len(ids)), strict=True):
            at[source, text] = len(parts.candidates)
            parts.candidates.append(part)
            parts.source_of.append(len(parts.sources))
        parts.sources.append(ids)
    return parts, at


def _logit(left: Any, right: Any) -> Floats:
    """The mean over metrics of left minus right."""
    logits: Floats = (left - right).double().mean(1).numpy()
    return logits
