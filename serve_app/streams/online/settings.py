"""Hyper-parameters of a stream's learner, checked, with the paper's values as defaults.

Symbols follow Nie, Ding, Hu, Jermaine, Chaudhuri, "Online Cascade Learning for Efficient Inference over Streams"
(ICML 2024, arXiv 2402.04513); values are those of the authors' runs on ISEAR, save where the docstring says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from serve_app.errors import ConfigError
from serve_app.streams.online.base import OBJECTIVES, StreamSpec

_LEAST = 1e-6
"""Of what is divided by."""
KINDS = ("logistic", "encoder")
"""Kinds of small levels, weakest first."""
FIXES = (
    *("replay", "single_softmax", "cost_to_go", "prior", "margin", "label_words", "pooled", "balanced"),
    *("early_exit", "floor", "front_load", "drift", "carry_over"),
)
"""What departs from the released code; all are on unless a stream switches them off. `plain` switches all off.

replay: levels and deferral learn again from a bounded, balanced store of LLM labels, not once from a cache that is then
emptied. single_softmax: cross entropy of the probabilities themselves (the released code applies softmax twice).
cost_to_go: deferral regresses the advantage of deferring, and the price acts on the decision (see `deferral`).
prior: deferral begins as margin sampling. margin: it stays that, and nothing of it is learned; without cost_to_go or
prior it is learned all the same. label_words: the encoder level begins from the words of the labels.
pooled: a level's probabilities take in those of the levels below it, which were computed anyway.
balanced: levels learn, from the store, as if the LLM gave all labels about as often, where the objective is balanced or
the answers are nearly even (see `replay`).
early_exit: levels above the one that answers are not computed.
floor: exploration never falls below `explore_floor`, and `audit_share` of the queries go straight to the LLM.
front_load: labels are borrowed from the horizon's later queries.
drift: a change of the LLM's labels is detected and confirmed, old labels are dropped, exploration begins again.
carry_over: after such a change the encoder level begins from what it knew, mapped to the new labels (see `encoded`).
"""


@dataclass(frozen=True, slots=True)
class LevelSettings:
    """One small level.

    `cost`: of asking it, in units of BERT-base (110 M parameters = 1); `decay`: beta = decay ** updates; `calibration`:
    added to the target of deferral; `learning_rate`, `l2`: of its deferral network; `cache_size`: labels per update.
    """

    cost: float
    decay: float
    calibration: float
    learning_rate: float
    l2: float
    cache_size: int


LEVELS: Mapping[str, LevelSettings] = {
    "logistic": LevelSettings(cost=0.0, decay=0.8, calibration=0.15, learning_rate=7e-4, l2=1e-4, cache_size=8),
    "encoder": LevelSettings(cost=0.206, decay=0.5, calibration=0.45, learning_rate=7e-4, l2=1e-4, cache_size=16),
}
"""The encoder's cost is that of MiniLM: 22.7 M / 110 M parameters. Its decay is 0.9 in the paper, which
does not front-load the LLM's labels."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """Everything that a learner is tuned by. Fields after `levels` are our own, those up to it the paper's.

    `llm_cost`: 130 B / 110 M parameters. `warm_up_updates`: the LLM answers all until each level had so many;
    `deferral_after`: updates after which deferral learns during it. `front_load`: share of the horizon's LLM calls that
    come first. `pooling`: weight of the level below in a level's log-probabilities. `balance`: times that the LLM is
    believed to distort a label's share at most; 1 balances nothing. `caution`: stands for `calibration` in the
    advantage of levels below the top. `price_step`: of the dual ascent on the price. `replay`,
    `deferral_replay`: labels kept for the levels and for deferral; `deferral_steps`: gradient steps for each label, of
    `deferral_batch` rows, learning rate `deferral_rate` and L2 `deferral_l2`. `drift_slack`, `drift_alarm`:
    Page-Hinkley's delta and lambda. `drift_look`: LLM calls of the second look that an alarm is followed by.
    `drift_restart`: LLM labels that follow a drift at once.
    """

    llm_cost: float = 1182.0
    warm_up_updates: int = 10
    deferral_after: int = 3
    levels: tuple[LevelSettings, ...] = ()
    front_load: float = 0.1
    pooling: float = 0.3
    balance: float = 2.0
    caution: float = 0.6
    price_step: float = 0.01
    replay: int = 4_000
    deferral_replay: int = 1_000
    deferral_steps: int = 4
    deferral_batch: int = 64
    deferral_rate: float = 3e-3
    deferral_l2: float = 3e-2
    drift_slack: float = 0.3
    drift_alarm: float = 10.0
    drift_look: int = 40
    drift_restart: int = 100

    def price(self, mu: float) -> float:
        """What one LLM call costs at `mu`, in units of the loss."""
        return mu * self.llm_cost

    def cost_after(self, level: int) -> float:
        """The paper's c_j: the cost of the model after level j."""
        return self.levels[level + 1].cost if level + 1 < len(self.levels) else self.llm_cost


def settings_of(spec: StreamSpec) -> LearnerSettings:
    """A stream's settings: defaults with `spec.params` over them. Raises ConfigError if they are invalid."""
    _check(spec)
    own = {f.name: f.type for f in fields(LearnerSettings) if f.name != "levels"}
    levels = {kind: LEVELS[kind] for kind in spec.levels}
    changed: dict[str, float | int] = {}
    for name, value in spec.params.items():
        kind, _, field = name.rpartition(".")
        if kind in levels and field in LevelSettings.__dataclass_fields__:
            number: Any = int(value) if field == "cache_size" else float(value)
            levels[kind] = replace(levels[kind], **{field: number})
        elif name in own:
            changed[name] = int(value) if own[name] in (int, "int") else float(value)
        else:
            known = sorted([*own, *(f"{k}.{f}" for k in levels for f in LevelSettings.__dataclass_fields__)])
            raise ConfigError(f"stream {spec.name!r}: no parameter {name!r}; there are {', '.join(known)}")
    settings = LearnerSettings(levels=tuple(levels.values()), **changed)  # type: ignore[arg-type]
    _check_values(spec, settings)
    return settings


def has_fix(spec: StreamSpec, fix: str) -> bool:
    """Whether a fix is on for this stream."""
    return spec.fixes.get(fix, True)


def defers_by_margin(spec: StreamSpec) -> bool:
    """Whether levels defer by the margin of their probabilities, and nothing of deferral is learned."""
    return all(has_fix(spec, fix) for fix in ("margin", "prior", "cost_to_go"))


def plain(fixes: Mapping[str, bool] | None = None) -> dict[str, bool]:
    """The released algorithm as coded: every fix off, save those of `fixes` that are on."""
    return {fix: False for fix in FIXES} | dict(fixes or {})


def _check(spec: StreamSpec) -> None:
    where = f"stream {spec.name!r}"
    if len(set(spec.labels)) != len(spec.labels) or len(spec.labels) < 2:
        raise ConfigError(f"{where}: labels must be two or more different words, not {list(spec.labels)}")
    if (spec.mu is None) == (spec.llm_share is None):
        raise ConfigError(f"{where}: give one of mu and llm_share, not both or neither")
    if spec.llm_share is not None and not 0 < spec.llm_share <= 1:
        raise ConfigError(f"{where}: llm_share must be above 0 and at most 1, not {spec.llm_share}")
    if spec.mu is not None and not spec.mu >= 0:
        raise ConfigError(f"{where}: mu must be 0 or more, not {spec.mu}")
    unknown = [kind for kind in spec.levels if kind not in KINDS]
    if unknown or not spec.levels or len(set(spec.levels)) != len(spec.levels):
        raise ConfigError(f"{where}: levels must be of {', '.join(KINDS)}, each once, not {list(spec.levels)}")
    if strange := sorted(set(spec.fixes) - set(FIXES)):
        raise ConfigError(f"{where}: unknown fix {strange[0]!r}; known fixes: {', '.join(FIXES)}")
    for name, value in (("explore_floor", spec.explore_floor), ("audit_share", spec.audit_share)):
        if not 0 <= value < 1:
            raise ConfigError(f"{where}: {name} must be at least 0 and below 1, not {value}")
    if spec.objective not in OBJECTIVES:
        raise ConfigError(f"{where}: objective must be one of {', '.join(OBJECTIVES)}, not {spec.objective!r}")
    if spec.horizon < 1:
        raise ConfigError(f"{where}: horizon must be 1 query or more, not {spec.horizon}")


def _check_values(spec: StreamSpec, settings: LearnerSettings) -> None:
    least = {"replay": 1, "deferral_replay": 1, "deferral_batch": 1, "price_step": 0.0, "front_load": 0.0, "balance": 1}
    for name, low in least.items():
        if not getattr(settings, name) >= low:
            raise ConfigError(f"stream {spec.name!r}: {name} must be {low} or more, not {getattr(settings, name)}")
    for name in ("llm_cost", "drift_alarm"):  # they are divided by
        if not getattr(settings, name) >= _LEAST:
            raise ConfigError(f"stream {spec.name!r}: {name} must be {_LEAST} or more, not {getattr(settings, name)}")
    for kind, level in zip(spec.levels, settings.levels, strict=True):
        if not (0 <= level.decay <= 1 and level.cache_size >= 1 and level.cost >= 0):
            raise ConfigError(
                f"stream {spec.name!r}: {kind}.decay is in [0, 1], .cache_size 1 or more, .cost 0 or more"
            )
