"""The ensemble of a config: which plan serves under the name jethro-ensemble, or why none does."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

from serve_app.config.strategies import BestOfConfig, EnsembleConfig, fusing_pool
from serve_app.ensemble.artefact import FILE as PLAN_FILE
from serve_app.ensemble.artefact import agreement_of, load_plan, version_of
from serve_app.ensemble.base import EnsemblePlan, MemberCalls, Round
from serve_app.ensemble.serving.best_route import BestOf
from serve_app.ensemble.serving.model_loading import ModelLoader
from serve_app.ensemble.serving.reporting import described
from serve_app.ensemble.serving.strategy import Ensemble
from serve_app.errors import ConfigError, DependencyError
from serve_app.grading.normalizers import normalizer
from serve_app.pools.base import Pool
from serve_app.strategy import Strategy

ENSEMBLE: Final = "jethro-ensemble"
_FUSED: Final = 3
"""Best answers that are fused where neither plan nor config says how many; LLM-Blender fuses three."""


@dataclass(frozen=True, slots=True)
class AvailableEnsembles:
    """Strategies by name, each with a one-line description; `missing` has the reason for every other name."""

    strategies: Mapping[str, tuple[Strategy, str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def load_ensembles(config: EnsembleConfig, pools: Mapping[str, Pool], models: ModelLoader) -> AvailableEnsembles:
    """The ensemble that the config has over these pools; `models` loads its ranker and fuser.

    Raises ConfigError, or DependencyError, for a configured plan that is invalid or cannot be served.
    """
    found = _plan(config, pools)
    if found is None:
        return AvailableEnsembles({}, {ENSEMBLE: _missing()})
    plan, where = found
    _check_members(plan, where, pools)
    _check_limits(plan, where)
    if plan.select == "ranker" and plan.ranker is None:
        raise ConfigError(f"{where}: it picks by a ranker, and names none: give the folder of one in ensemble.ranker")
    with _named("ensemble.ranker" if config.ranker is not None else f"{where}: ranker"):
        rank = models.ranker(Path(plan.ranker)) if plan.select == "ranker" and plan.ranker is not None else None
    fuse, fuse_pool = None, fusing_pool(plan.fuser)
    with _named("ensemble.fuser" if config.fuser is not None else f"{where}: fuser"):
        if fuse_pool is not None and fuse_pool not in pools:
            raise ConfigError(f"no pool {fuse_pool!r}, the config has {', '.join(pools)}: name one of them")
        if plan.fuser is not None and fuse_pool is None:
            fuse = models.fuser(Path(plan.fuser))
    with _named(where):
        strategy = Ensemble(
            "ensemble",
            plan,
            pools,
            normalizer(plan.normalizer, "normalizer"),
            agreement=agreement_of(plan),
            rank=rank,
            rank_s=config.ranker_timeout_ms / 1e3,
            fuse=fuse,
            fuse_s=config.fuser_timeout_s,
            fuse_pool=fuse_pool,
        )
    fused = f", the best {plan.fuse_top} fused" if strategy.fuses else ""
    line = f"{described(plan.rounds)}: picked by {plan.select}{fused}"
    return AvailableEnsembles({ENSEMBLE: (strategy, line)})


def load_best_of(config: BestOfConfig, models: ModelLoader) -> BestOf:
    """How BEST-Route picks among the answers of a pool. Raises ConfigError, or DependencyError."""
    select = config.select or ("ranker" if config.ranker is not None else "vote")
    if select == "ranker" and config.ranker is None:
        raise ConfigError("routing.best_of.select: it picks by a ranker, and none is named: set routing.best_of.ranker")
    with _named("routing.best_of.ranker"):
        rank = models.ranker(Path(config.ranker)) if select == "ranker" and config.ranker is not None else None
    normalizer(config.normalizer, "routing.best_of.normalizer")
    return BestOf(select, config.normalizer, rank, config.ranker_timeout_ms / 1e3)


def _plan(config: EnsembleConfig, pools: Mapping[str, Pool]) -> tuple[EnsemblePlan, str] | None:
    """The plan with what the config overrides, and where it is from; None without one.

    If none is configured, the one that ships serves the models that it was fitted on.
    """
    if config.plan is not None:
        folder = Path(config.plan)
        with _named("ensemble.plan"):
            plan = _overridden(_at(load_plan(folder), folder), config)
        return plan, f"ensemble.plan: {folder / PLAN_FILE}"
    if config.rounds is None:
        return _shipped(config, pools)
    plan = EnsemblePlan(
        rounds=tuple(
            Round(tuple(MemberCalls(m.pool, m.samples, m.adapter) for m in each.calls), each.stop_at)
            for each in config.rounds
        ),
        select=config.select or ("ranker" if config.ranker is not None else "vote"),
        version="",
        normalizer=config.normalizer or "text",
        fuse_top=_FUSED if config.fuser is not None else 0,
    )
    return _overridden(plan, config), "ensemble.rounds"


def _shipped(config: EnsembleConfig, pools: Mapping[str, Pool]) -> tuple[EnsemblePlan, str] | None:
    """The plan that ships, if these are its models."""
    with resources.as_file(resources.files("serve_app.ensemble") / "lab" / "plan") as folder:
        if not (folder / PLAN_FILE).is_file():
            return None
        plan = _at(load_plan(folder), folder)
        members = {member.pool for member in plan.members}
        if any(name not in pools or pools[name].model != plan.models.get(name) for name in members):
            return None
        return _overridden(plan, config), f"the plan that ships ({folder / PLAN_FILE})"


def _at(plan: EnsemblePlan, folder: Path) -> EnsemblePlan:
    """The plan with its ranker and fuser where they are: in its own folder, if there is one of that name."""

    def found(name: str | None) -> str | None:
        return str(folder / name) if name is not None and (folder / name).is_dir() else name

    return replace(plan, ranker=found(plan.ranker), fuser=found(plan.fuser))


def _overridden(plan: EnsemblePlan, config: EnsembleConfig) -> EnsemblePlan:
    """With what the config says otherwise; the version names that too, wherever the folders are on this machine."""
    changes: dict[str, Any] = {
        name: value
        for name in ("ranker", "fuser", "fuse_top", "deadline_s", "quorum")
        if (value := getattr(config, name)) is not None
    }
    changed = replace(plan, **changes)
    return replace(changed, version=version_of(changed)) if changes or not plan.version else plan


def _missing() -> str:
    return (
        "No ensemble is fitted for these pools: fit one on these models' answers with `jethro ensemble fit` and name "
        "its folder in ensemble.plan, or list the members in ensemble.rounds."
    )


def _check_members(plan: EnsemblePlan, where: str, pools: Mapping[str, Pool]) -> None:
    """Raises ConfigError if the pools are not those of the plan, or lack what it needs of them."""
    for i, each in enumerate(plan.rounds):
        for j, member in enumerate(each.calls):
            at = f"{where}: round {i}, call {j}"
            pool = pools.get(member.pool)
            if pool is None:
                raise ConfigError(
                    f"{at} is of pool {member.pool!r}, but the config has {', '.join(pools)}: add it under pools, or "
                    "leave it out"
                )
            model = plan.models.get(member.pool)
            if model and model != pool.model:
                raise ConfigError(
                    f"{at}: the plan was fitted on {model!r}, but pools.{member.pool}.model is {pool.model!r}: fit it "
                    "on its answers, or serve that model"
                )
            if plan.select == "logprob" and not pool.capabilities.logprobs:
                raise ConfigError(
                    f"{at}: it picks by log-probabilities, which pool {member.pool} does not return: set "
                    f"pools.{member.pool}.engine.logprobs if it does, or pick by vote"
                )
            if member.adapter is not None and not pool.capabilities.adapters:
                raise ConfigError(
                    f"{at}: pool {member.pool} has no adapters, and {member.adapter!r} is one: add it to "
                    f"pools.{member.pool}.engine.adapters, or leave it out"
                )


def _check_limits(plan: EnsemblePlan, where: str) -> None:
    """Raises ConfigError for numbers that contradict each other."""
    most = sum(member.samples for member in plan.members)
    if plan.quorum > most:
        raise ConfigError(
            f"{where}: quorum is {plan.quorum}, and the plan draws {most} answers: lower ensemble.quorum to {most}"
        )
    if plan.fuse_top and plan.fuser is None:
        raise ConfigError(
            f"{where}: fuse_top is {plan.fuse_top}, and no fuser is named: give ensemble.fuser, or leave it"
        )
    for i, each in enumerate(plan.rounds):
        names = Counter(member.name for member in each.calls)
        if twice := next((name for name, n in names.items() if n > 1), None):
            raise ConfigError(f"{where}: round {i} calls {twice} twice: give one call more samples instead")


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors name the config's key, as well as the file."""
    try:
        yield
    except (ConfigError, DependencyError) as e:
        raise type(e)(f"{key}: {e}") from e
