"""Recorded answers as an ensemble sees them: what each sample of each member says, what it cost, how good it was."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Final, Self

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.ensemble.base import Candidate, EnsemblePlan, MemberCalls, Vote
from serve_app.errors import ConfigError, DataError
from serve_app.grading.normalizers import NORMALIZERS, normalizer
from serve_app.types import Query

_RIGHT: Final = 0.5
"""Quality from which an answer counts as right where forms of answers are compared."""
_COMPARED: Final = 5
"""Members whose answers are compared pairwise to choose a form."""


@dataclass(frozen=True, slots=True)
class RecordedCandidate:
    """A recorded answer that says something: the candidate, its vote, and its quality in [0, 1]."""

    candidate: Candidate
    vote: Vote
    quality: float


@dataclass(frozen=True, slots=True)
class Answers:
    """n queries, answered by the members `names`. Of member m: `forms[m]`, n tuples of k normalized answers ("" says
    nothing), `texts[m]` as they are, and arrays [n, k] of quality in [0, 1], cost in US dollars, completion tokens and
    mean log-probabilities of the tokens (nan where unknown).
    """

    names: tuple[str, ...]
    queries: tuple[Query, ...]
    normalizer: str
    forms: tuple[tuple[tuple[str, ...], ...], ...]
    quality: tuple[Floats, ...]
    cost_usd: tuple[Floats, ...]
    tokens: tuple[Floats, ...]
    models: tuple[str, ...] = ()
    texts: tuple[tuple[tuple[str, ...], ...], ...] = field(default=(), repr=False)
    logprobs: tuple[Floats, ...] = ()

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def of(cls, dataset: Dataset, names: Sequence[str] = (), form: str = "auto") -> Self:
        """The answers of some of the pools, all by default, in the form that fits them best by default.

        Raises DataError for a pool that is not there and for a quality that is missing or outside [0, 1], ConfigError
        for an unknown form.
        """
        chosen = tuple(names) or tuple(dataset.pools)
        if missing := [name for name in chosen if name not in dataset.pools]:
            raise DataError(f"the answers have no pool {missing[0]!r}: they have {', '.join(dataset.pools)}")
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"members are named twice: {', '.join(chosen)}")
        pools = [dataset.pools[name] for name in chosen]
        for name, pool in zip(chosen, pools, strict=True):
            wrong = ~((pool.quality >= 0) & (pool.quality <= 1))
            if wrong.any():
                row = int(np.argwhere(wrong)[0][0])
                raise DataError(
                    f"row {row} (id {dataset.ids[row]!r}): the quality of {name} is not in [0, 1]: score the answers "
                    "with `jethro data score`"
                )
        normalizer_name = form if form != "auto" else best_form(dataset, chosen)
        normalize = normalizer(normalizer_name)
        return cls(
            names=chosen,
            queries=dataset.queries,
            normalizer=normalizer_name,
            forms=tuple(tuple(tuple(_form(normalize, t) for t in texts) for texts in pool.texts) for pool in pools),
            quality=tuple(pool.quality for pool in pools),
            cost_usd=tuple(np.nan_to_num(pool.cost_usd) for pool in pools),
            tokens=tuple(pool.completion_tokens for pool in pools),
            models=tuple(pool.model for pool in pools),
            texts=tuple(pool.texts for pool in pools),
            logprobs=tuple(pool.mean_logprobs() for pool in pools),
        )

    def samples(self, name: str) -> int:
        """How many answers of a member each query has."""
        return int(self.quality[self.names.index(name)].shape[1])

    def strengths(self) -> dict[str, float]:
        """Mean quality of each member's first answers: of answers that say the same, the strongest's is returned."""
        return {name: float(self.alone(name).mean()) for name in self.names}

    def cost(self, call: MemberCalls) -> Floats:
        """Of a call, shape [n]; every sample is paid with its prompt, though a pool may read that only once."""
        found: Floats = self.cost_usd[self.names.index(call.pool)][:, : call.samples].sum(1)
        return found

    def alone(self, name: str) -> Floats:
        """Quality of a member's first answer, shape [n]."""
        found: Floats = self.quality[self.names.index(name)][:, 0]
        return found

    def candidates(self, row: int, calls: Sequence[MemberCalls]) -> list[RecordedCandidate]:
        """What calls give on a query. An answer that says nothing is no candidate."""
        found = []
        for call in calls:
            at = self.names.index(call.pool)
            for sample, form in enumerate(self.forms[at][row][: call.samples]):
                if not form:
                    continue
                tokens, logprob = (float(values[at][row, sample]) for values in (self.tokens, self.logprobs))
                said = Candidate(call.name, self.texts[at][row][sample], sample, None if isnan(logprob) else logprob)
                vote = Vote(call.name, form, tokens if tokens > 0 else None)
                found.append(RecordedCandidate(said, vote, float(self.quality[at][row, sample])))
        return found

    def votes(self, row: int, calls: Sequence[MemberCalls]) -> tuple[list[Vote], list[float]]:
        """The votes on a query, and the quality of the answer behind each."""
        found = self.candidates(row, calls)
        return [one.vote for one in found], [one.quality for one in found]

    def has_logprobs(self, call: MemberCalls) -> bool:
        """Whether log-probabilities are known of every answer of a call that says something."""
        at = self.names.index(call.pool)
        said = np.array([[bool(form) for form in forms[: call.samples]] for forms in self.forms[at]])
        return bool(np.isfinite(self.logprobs[at][:, : call.samples])[said].all())

    def check(self, plan: EnsemblePlan) -> None:
        """Raises DataError if a member of a plan was not recorded, with as many samples."""
        for call in plan.members:
            if call.pool not in self.names:
                raise DataError(f"the answers have none of {call.name}, which the plan calls: collect them")
            if call.samples > self.samples(call.pool):
                raise DataError(
                    f"the plan draws {call.samples} answers of {call.name}: {self.samples(call.pool)} exist"
                )


def best_form(dataset: Dataset, names: Sequence[str]) -> str:
    """The form with the fewest mistakes over pairs of answers to a query, by quality; the plainest of equal ones.

    A mistake is a pair of which one is right alone and that says the same by the form, or of which both are right and
    that does not. Two right answers to a question of essays need not say the same: there the plain text is taken, if
    no form joins at least half of the right pairs.
    """
    order = sorted(names, key=lambda name: -float(dataset.pools[name].quality[:, 0].mean()))[:_COMPARED]
    joined: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    right_pairs = 0
    for row in range(len(dataset)):
        said = [(dataset.pools[name].texts[row][0], dataset.pools[name].quality[row, 0] >= _RIGHT) for name in order]
        said = [one for one in said if one[0].strip()]
        pairs = [(a, b) for i, a in enumerate(said) for b in said[:i] if a[1] or b[1]]
        right_pairs += sum(a[1] and b[1] for a, b in pairs)
        for name, normalize in NORMALIZERS.items():
            forms = {text: _form(normalize, text) for text, _ in said}
            for (one, one_right), (other, other_right) in pairs:
                same, both = forms[one] == forms[other], one_right and other_right
                wrong[name] += same != both
                joined[name] += same and both
    best = min(NORMALIZERS, key=lambda name: wrong[name])
    return best if 2 * joined[best] >= right_pairs else "text"


def _form(normalize: object, text: str) -> str:
    assert callable(normalize)
    return str(normalize(text)) if text.strip() else ""
