"""Agreement among answers: which answer leads, and how likely it is right, given who said what.

Each distinct answer has the log-odds of being right

    bias + sum over members of  said_m * (share of m's samples that say it) + other_m * (share that say another)
         + length_m * (how long m's answer is, standardised) + liked * (accuracy of its members on like queries)

so that a vote counts as much as its member's accuracy is worth next to those of the others: members that err together
share one weight. The answer of the highest log-odds leads, and a logistic curve fitted on queries held out of the fit
makes its log-odds a probability. There is one such model for each round of a plan, of all members called by then.

The form is the naive Bayes vote of Nitzan and Paroush (1982), log(p / (1 - p)) a member, with the weights fitted at
once (ridge logistic regression) instead of member by member. Less than a millisecond: no array is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, isfinite, log, sqrt
from typing import Any, Final, Literal, Self

from serve_app.ensemble.base import Vote
from serve_app.errors import ConfigError
from serve_app.learning.features import NUMERIC, Reading, read
from serve_app.types import Query

KIND: Final = "votes"
StopRule = Literal["probability", "gain"]
"""Whether a plan stops by the probability that its answer is right, or by what further rounds are expected to add."""
_KEYS: Final = frozenset({"kind", "similarity", "stages", "likes"})
_STAGE_KEYS: Final = frozenset(
    {"members", "bias", "weights", "length_mean", "length_scale", "slope", "shift", "now", "later"}
)
_EXPECTATION_KEYS: Final = frozenset({"bias", "lead", "liked"})
_LIKE_KEYS: Final = frozenset({"bias", "numeric", "mean", "deviation", "tasks", "words"})
_REMEDY: Final = "fit the ensemble again"
_SHORT: Final = 10
"""Added to a number of tokens before its logarithm: between one and five tokens there is no difference."""
_LEAST_WORDS: Final = 6
"""Shorter answers are never near-duplicates: one word decides in them."""
_DECISIVE: Final = frozenset(
    ("no", "not", "never", "none", "without", "nor", "neither", "cannot", "can't", "isn't", "doesn't", "false", "true")
)
"""Words that turn what is said around: texts that differ in them, or in their numbers, say different things."""
_MOST: Final = 4.0
"""Standard deviations that a readable number of a query may lie from the mean."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Log-odds that an answer will be right, as known after a stage: `bias` + `lead` times the leading answer's
    log-odds + the sum of `liked` times each member's offset on the query, whether it was called yet or not.
    """

    bias: float
    lead: float
    liked: Mapping[str, float] = field(default_factory=dict)

    def probability(self, log_odds: float, offsets: Mapping[str, float]) -> float:
        """In (0, 1)."""
        liked = sum(weight * offsets.get(name, 0.0) for name, weight in self.liked.items())
        return _logistic(self.bias + self.lead * log_odds + liked)


@dataclass(frozen=True, slots=True)
class VoteStage:
    """The model of the votes of `members`. `weights`: said, other, length of each member, then liked: 3 m + 1.

    `length_mean` and `length_scale`: of the logarithm of each member's tokens. `slope` and `shift`: calibration of the
    leading answer's log-odds. `now` and `later`: of the answer as it leads, and of the answer after all further rounds;
    with both, a plan stops by what the further rounds are expected to add.
    """

    members: tuple[str, ...]
    bias: float
    weights: tuple[float, ...]
    length_mean: tuple[float, ...]
    length_scale: tuple[float, ...]
    slope: float = 1.0
    shift: float = 0.0
    now: Expectation | None = None
    later: Expectation | None = None

    def log_odds(self, row: Sequence[float]) -> float:
        """Of one answer, before calibration; see `columns`."""
        return self.bias + sum(w * x for w, x in zip(self.weights, row, strict=True))

    def calibrated(self, log_odds: float) -> float:
        """The probability in (0, 1) that a leading answer is right."""
        return _logistic(self.slope * log_odds + self.shift)

    def sure(self, log_odds: float, offsets: Mapping[str, float]) -> float:
        """What is compared with `stop_at`: 1 less the expected gain of further rounds, or the probability."""
        if self.now is None or self.later is None:
            return self.calibrated(log_odds)
        return 1.0 - max(0.0, self.later.probability(log_odds, offsets) - self.now.probability(log_odds, offsets))


@dataclass(frozen=True, slots=True)
class LikeQueries:
    """By how much, in log-odds, a member is more often right on queries like this than on all.

    `numeric`: weights of `learning.features.NUMERIC`, standardised by `mean` and `deviation`; `tasks`: of the task
    guess; `words`: of the words in the last user turn, as a unit vector over those that are known. {} without.
    """

    bias: float
    numeric: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    tasks: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, float] = field(default_factory=dict)

    def offset(self, reading: Reading) -> float:
        """Of a query as it was read."""
        standard = (
            max(-_MOST, min(_MOST, (x - m) / d))
            for x, m, d in zip(reading.numeric, self.mean, self.deviation, strict=True)
        )
        numbers = sum(w * x for w, x in zip(self.numeric, standard, strict=True))
        known = [self.words[word] for word in sorted(set(reading.tokens)) if word in self.words]
        spoken = sum(known) / sqrt(len(known)) if known else 0.0
        return self.bias + numbers + self.tasks.get(reading.task, 0.0) + spoken


@dataclass(frozen=True, slots=True)
class Agreement:
    """A fitted agreement model, an `ensemble.base.AgreementModel`. `offsets`: of the current query, by member.

    `similarity`: share of words that two free texts have in common at least to say the same; None: equal forms only.
    """

    stages: tuple[VoteStage, ...]
    likes: Mapping[str, LikeQueries] = field(default_factory=dict)
    similarity: float | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)

    @property
    def stops(self) -> StopRule:
        """What `sure` is of: all stages but the last have the same."""
        return "probability" if self.stages[0].now is None else "gain"

    def for_query(self, query: Query) -> "Agreement":
        """The same model with the members' accuracies on queries like this one."""
        if not self.likes:
            return self
        found = read(query)
        offsets = {name: like.offset(found) for name, like in self.likes.items()}
        return Agreement(self.stages, self.likes, self.similarity, offsets)

    def probability(self, votes: Sequence[Vote]) -> tuple[str, float]:
        """The leading answer, as its first vote has it, and the probability that it is right. At least one vote.

        Members that the model does not know count for nothing; where it knows none of them, the first answer leads
        with the probability 0.
        """
        stage, leader, log_odds = self._leading(votes)
        return leader, 0.0 if log_odds is None else stage.calibrated(log_odds)

    def sure(self, votes: Sequence[Vote]) -> float:
        """What is compared with `stop_at`, in [0, 1]; see `VoteStage.sure`. At least one vote."""
        stage, _, log_odds = self._leading(votes)
        return 0.0 if log_odds is None else stage.sure(log_odds, self.offsets)

    def _leading(self, votes: Sequence[Vote]) -> tuple[VoteStage, str, float | None]:
        """The stage, the leading answer and its log-odds; None where no member is known."""
        stage = self.stage_of(votes)
        known = [vote for vote in votes if vote.member in stage.members]
        if not known:
            return stage, votes[0].answer, None
        labels = groups(known, self.similarity)
        best, leader = float("-inf"), 0
        for at in dict.fromkeys(labels):
            found = stage.log_odds(columns(stage, known, labels, at, self.offsets))
            if found > best:
                best, leader = found, at
        return stage, known[leader].answer, best

    def stage_of(self, votes: Sequence[Vote]) -> VoteStage:
        """The first stage that has all members of the votes; the last where none has."""
        voters = {vote.member for vote in votes}
        return next((stage for stage in self.stages if voters.issubset(stage.members)), self.stages[-1])

    def state(self) -> dict[str, Any]:
        """As a plan keeps it."""
        likes = {
            name: {key: _plain(getattr(like, key)) for key in sorted(_LIKE_KEYS)} for name, like in self.likes.items()
        }
        stages = [{key: _plain(getattr(stage, key)) for key in sorted(_STAGE_KEYS)} for stage in self.stages]
        return {"kind": KIND, "similarity": self.similarity, "stages": stages, "likes": likes}

    @classmethod
    def from_state(cls, state: Any, where: str = "agreement") -> Self:
        """From `state`. Raises ConfigError naming `where`, what is wrong with it, and what to do."""
        body = _object(state, _KEYS, where)
        if body["kind"] != KIND:
            raise ConfigError(f"{where}: kind is {body['kind']!r}, this version reads {KIND!r}; {_REMEDY}")
        similarity = body["similarity"]
        if similarity is not None and not (_is_number(similarity) and 0 < similarity <= 1):
            raise ConfigError(f"{where}.similarity: is {similarity!r}, not null or in (0, 1]; {_REMEDY}")
        if not isinstance(body["stages"], list) or not body["stages"]:
            raise ConfigError(f"{where}.stages: must be a list of at least one stage; {_REMEDY}")
        stages = tuple(_stage(spec, f"{where}.stages[{i}]") for i, spec in enumerate(body["stages"]))
        if len({stage.now is None for stage in stages[:-1]}) > 1:
            raise ConfigError(f"{where}.stages: some have now and later and some have not; {_REMEDY}")
        if not isinstance(body["likes"], dict):
            raise ConfigError(f"{where}.likes: must be an object; {_REMEDY}")
        likes = {str(name): _like(spec, f"{where}.likes.{name}") for name, spec in body["likes"].items()}
        return cls(stages, likes, None if similarity is None else float(similarity))


def columns(
    stage: VoteStage, votes: Sequence[Vote], labels: Sequence[int], answer: int, offsets: Mapping[str, float]
) -> list[float]:
    """What a stage's weights weigh of the answer labelled `answer`, shape [3 m + 1]. Votes are of its members."""
    m = len(stage.members)
    row = [0.0] * (3 * m + 1)
    said, liked = [0] * m, 0.0
    place = {member: at for at, member in enumerate(stage.members)}
    for vote in votes:
        said[place[vote.member]] += 1
    for vote, label in zip(votes, labels, strict=True):
        at = place[vote.member]
        share = 1.0 / said[at]
        offset = offsets.get(vote.member, 0.0) * share
        if label == answer:
            row[at] += share
            liked += offset
        else:
            row[m + at] += share
            liked -= offset
        if vote.tokens is not None:
            row[2 * m + at] += share * (log(vote.tokens + _SHORT) - stage.length_mean[at]) / stage.length_scale[at]
    row[-1] = liked
    return row


def groups(votes: Sequence[Vote], similarity: float | None) -> list[int]:
    """For each vote the position of the first vote that says the same, shape [n].

    Equal forms do; with `similarity`, so do free texts of six words or more whose words (as multisets) have at least
    that Jaccard index and whose numbers and negations are the same.
    """
    first: dict[str, int] = {}
    labels = [first.setdefault(vote.answer, at) for at, vote in enumerate(votes)]
    if similarity is None or len(first) < 2:
        return labels
    said = {at: _words(votes[at].answer) for at in first.values()}
    merged = {at: at for at in said}
    for at in said:
        merged[at] = next((other for other in said if other < at and alike(said[other], said[at], similarity)), at)
        merged[at] = merged[merged[at]]
    return [merged[label] for label in labels]


def alike(one: Mapping[str, int], other: Mapping[str, int], similarity: float) -> bool:
    """Whether two texts, as counted words, are near-duplicates."""
    if min(sum(one.values()), sum(other.values())) < _LEAST_WORDS:
        return False
    shared = sum(min(count, other.get(word, 0)) for word, count in one.items())
    if shared < similarity * (sum(one.values()) + sum(other.values()) - shared):
        return False
    differing = {word for word in one.keys() | other.keys() if one.get(word, 0) != other.get(word, 0)}
    return not any(word in _DECISIVE or any(c.isdigit() for c in word) for word in differing)


def _words(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in text.casefold().split():
        key = word.strip(".,;:!?\"'`()*") or word
        found[key] = found.get(key, 0) + 1
    return found


def log_length(tokens: float) -> float:
    """The length of an answer as `columns` standardises it."""
    return log(tokens + _SHORT)


def _stage(spec: Any, where: str) -> VoteStage:
    body = _object(spec, _STAGE_KEYS, where)
    members = body["members"]
    if not isinstance(members, list) or not members or not all(isinstance(m, str) and m for m in members):
        raise ConfigError(f"{where}.members: must be a list of names; {_REMEDY}")
    if len(set(members)) < len(members):
        raise ConfigError(f"{where}.members: name one twice; {_REMEDY}")
    m = len(members)
    sizes = {"weights": 3 * m + 1, "length_mean": m, "length_scale": m}
    lists = {key: _numbers(body[key], size, f"{where}.{key}") for key, size in sizes.items()}
    if min(lists["length_scale"]) <= 0:
        raise ConfigError(f"{where}.length_scale: must be above 0; {_REMEDY}")
    bias, slope, shift = _numbers([body[key] for key in ("bias", "slope", "shift")], 3, f"{where}.bias, slope, shift")
    if slope < 0:
        raise ConfigError(f"{where}.slope: is {slope:g}, below 0; {_REMEDY}")
    now, later = (_expectation(body[key], f"{where}.{key}") for key in ("now", "later"))
    if (now is None) != (later is None):
        raise ConfigError(f"{where}: now and later must both be there, or neither; {_REMEDY}")
    lengths = lists["length_mean"], lists["length_scale"]
    return VoteStage(tuple(members), bias, lists["weights"], *lengths, slope, shift, now, later)


def _expectation(spec: Any, where: str) -> Expectation | None:
    if spec is None:
        return None
    body = _object(spec, _EXPECTATION_KEYS, where)
    if not isinstance(body["liked"], dict):
        raise ConfigError(f"{where}.liked: must be an object; {_REMEDY}")
    bias, lead = _numbers([body["bias"], body["lead"]], 2, f"{where}.bias, lead")
    liked = _numbers(list(body["liked"].values()), None, f"{where}.liked")
    return Expectation(bias, lead, dict(zip(map(str, body["liked"]), liked, strict=True)))


def _like(spec: Any, where: str) -> LikeQueries:
    body = _object(spec, _LIKE_KEYS, where)
    lists = {key: _numbers(body[key], len(NUMERIC), f"{where}.{key}") for key in ("numeric", "mean", "deviation")}
    if min(lists["deviation"]) <= 0 or not all(isinstance(body[key], dict) for key in ("tasks", "words")):
        raise ConfigError(f"{where}: deviation must be above 0, tasks and words objects; {_REMEDY}")
    tasks, words = (
        dict(zip(body[key], _numbers(list(body[key].values()), None, f"{where}.{key}"), strict=True))
        for key in ("tasks", "words")
    )
    (bias,) = _numbers([body["bias"]], 1, f"{where}.bias")
    return LikeQueries(bias, lists["numeric"], lists["mean"], lists["deviation"], tasks, words)


def _object(spec: Any, keys: frozenset[str], where: str) -> dict[str, Any]:
    if not isinstance(spec, Mapping) or set(spec) != keys:
        raise ConfigError(f"{where}: must be an object of {', '.join(sorted(keys))}; {_REMEDY}")
    return dict(spec)


def _numbers(values: Any, size: int | None, where: str) -> tuple[float, ...]:
    fits = isinstance(values, list) and (size is None or len(values) == size)
    if not fits or not all(_is_number(value) for value in values):
        raise ConfigError(f"{where}: must be {'' if size is None else f'{size} '}finite numbers; {_REMEDY}")
    return tuple(float(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _logistic(log_odds: float) -> float:
    return 1.0 / (1.0 + exp(-max(-500.0, min(500.0, log_odds))))


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Expectation):
        return {key: _plain(getattr(value, key)) for key in sorted(_EXPECTATION_KEYS)}
    return list(value) if isinstance(value, tuple) else value
