"""StreamSpec as JSON, and the bounds on what a stream may be."""

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from serve_app.errors import RequestError
from serve_app.streams.base import BudgetChange
from serve_app.streams.labels import normal
from serve_app.streams.online.base import OBJECTIVES, StreamSpec

LEVELS: Final = ("logistic", "encoder")
"""Kinds of small models, weakest first."""
_BUDGET: Final = ("mu", "llm_share", "horizon")
_EARLIER: Final = {"margin": False}
_NAME = re.compile(r"(?!lock$)[a-z0-9][a-z0-9_-]{0,47}")
"""`lock` is the file by which a Learner owns the folder."""
_MOST_HORIZON: Final = 10**9
_LABEL_CHARS: Final = 64
_INSTRUCTION_CHARS: Final = 4000
_MOST_PARAMS: Final = {
    **{"replay": 20_000, "deferral_replay": 20_000, "cache_size": 10_000},
    **{"deferral_batch": 1024, "deferral_steps": 64},
}
"""What would hold the Learner up, or fill its memory, for all streams; any other parameter is at most a billion."""


def spec_to_json(spec: StreamSpec) -> dict[str, Any]:
    """JSON-ready, the same for the same spec."""
    values = {**asdict(spec), "labels": list(spec.labels), "levels": list(spec.levels)}
    return {"mends" if key == "fixes" else key: value for key, value in values.items()}


def spec_from_json(spec: Mapping[str, Any]) -> StreamSpec:
    """The inverse of `spec_to_json`; fields with a default may be missing. `fixes` has its older name in JSON.

    A spec without an objective is of an earlier version, whose streams always balanced and learned to defer: the stream
    continues as it was created.
    """
    values = {"fixes" if key == "mends" else key: value for key, value in spec.items()}
    if "objective" not in values:
        values |= {"objective": "balanced", "fixes": {**_EARLIER, **(values.get("fixes") or {})}}
    return StreamSpec(**{**values, "labels": tuple(spec["labels"]), "levels": tuple(spec["levels"])})


def with_budget(spec: StreamSpec, budget: BudgetChange) -> StreamSpec:
    """The same stream under another budget."""
    horizon = spec.horizon if budget.horizon is None else budget.horizon
    return replace(spec, mu=budget.mu, llm_share=budget.llm_share, horizon=horizon)


def difference(old: StreamSpec, new: StreamSpec) -> str | None:
    """The first field that differs, the budget left out; None if there is none."""
    values = spec_to_json(new)
    return next((k for k, v in spec_to_json(old).items() if k not in _BUDGET and v != values[k]), None)


def is_name(name: str) -> bool:
    """Whether a stream may have this name; one that may is a plain file name too."""
    return _NAME.fullmatch(name) is not None


def check_spec(spec: StreamSpec, most_labels: int, pools: Collection[str]) -> None:
    """Raises RequestError that names the field, its value and the fix. `pools`: those that may be its LLM."""
    if not is_name(spec.name):
        allowed = "use up to 48 of a-z, 0-9, _ and -, beginning with a letter or digit, and not `lock`"
        raise _wrong("name", f"{spec.name[:60]!r}: {allowed}")
    _check_labels(spec.labels, most_labels)
    _check_text("instruction", spec.instruction, _INSTRUCTION_CHARS)
    if spec.llm_pool not in pools:
        raise _wrong("llm_pool", f"{spec.llm_pool[:60]!r} is no pool; pools are {', '.join(pools)}")
    check_budget(BudgetChange(spec.mu, spec.llm_share, spec.horizon))
    for name, value in spec.params.items():
        most = _MOST_PARAMS.get(name.rpartition(".")[2], 1e9)
        if not 0 <= value <= most:
            raise _wrong("params", f"{name[:64]} is {value:g}: give 0 to {most:g}")
    places = [LEVELS.index(kind) if kind in LEVELS else -1 for kind in spec.levels]
    if not places or -1 in places or places != sorted(set(places)):
        raise _wrong("levels", f"{list(spec.levels)!r:.80}: give some of {', '.join(LEVELS)}, weakest first")
    if spec.objective not in OBJECTIVES:
        raise _wrong("objective", f"{spec.objective[:60]!r}: give one of {', '.join(OBJECTIVES)}")
    for field in ("explore_floor", "audit_share"):
        if not 0.0 <= getattr(spec, field) < 1.0:
            raise _wrong(field, f"{getattr(spec, field):g}: give a share from 0 to less than 1")


def check_budget(budget: BudgetChange) -> None:
    """Raises RequestError unless exactly one of mu and llm_share is set, within its range."""
    if (budget.mu is None) == (budget.llm_share is None):
        raise _wrong("llm_share", "give one of llm_share (share of queries that reach the LLM) and mu (price of cost)")
    if budget.mu is not None and not 0.0 <= budget.mu <= 1e6:
        raise _wrong("mu", f"{budget.mu:g}: the price of a unit of cost is at least 0 and at most a million")
    if budget.llm_share is not None and not 0.0 < budget.llm_share <= 1.0:
        raise _wrong("llm_share", f"{budget.llm_share:g} is no share: give a number above 0, and 1 at most")
    if budget.horizon is not None and not 1 <= budget.horizon <= _MOST_HORIZON:
        raise _wrong("horizon", f"{budget.horizon}: the budget holds over 1 to {_MOST_HORIZON} queries")


def _check_labels(labels: Collection[str], most: int) -> None:
    if not 2 <= len(labels) <= most:
        raise _wrong("labels", f"{len(labels)} labels: give 2 to {most}")
    seen: dict[str, str] = {}
    for label in labels:
        _check_text("labels", label, _LABEL_CHARS)
        if (key := normal(label)) in seen:
            raise _wrong("labels", f"{label!r} and {seen[key]!r} look alike in an answer: give labels that differ")
        seen[key] = label


def _check_text(field: str, text: str, most: int) -> None:
    if not text.strip() or len(text) > most:
        raise _wrong(field, f"{text[:60]!r} has {len(text)} characters: give 1 to {most}, not only blanks")
    if field == "labels" and (text != text.strip() or any(unicodedata.category(c).startswith("C") for c in text)):
        raise _wrong(field, f"{text[:60]!r}: no control characters, and no blanks at its ends")


def _wrong(field: str, why: str) -> RequestError:
    return RequestError(f"{field}: {why}.", param=field, code="invalid_value")
