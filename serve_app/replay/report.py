"""A replay as text and as JSON: what was served against what would have been, and how each figure was found."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from serve_app.learning.metrics import Interval
from serve_app.numbers import between, fixed, percent, significant, usd
from serve_app.replay.bootstrap_curve import LEVEL
from serve_app.replay.cascade import CascadePlan
from serve_app.replay.estimate import ReplayedFigure, ReplayResult, ServedRatings
from serve_app.replay.run import ReplayPlan
from serve_app.training.evaluation import interval_json
from serve_app.training.report import markdown_table

AnyPlan = ReplayPlan | CascadePlan
_LABELS: Final = {"share": "calls of large", "cost_usd": "USD, 1,000 queries", "quality": "expected quality"}
_METHOD: Final = (
    "In brackets 95 % intervals: bootstrap of the decisions and of the calibration queries, paired for the change; "
    "Wilson's score for shares. The next queries vary by themselves, too."
)
_QUALITY: Final = (
    "Expected quality: mean of each pool's answers on calibration queries of a similar score (the direct method); "
    "feedback could not replace it, since it exists only for the pool that answered."
)


def replay_text(result: ReplayResult, plan: AnyPlan) -> str:
    """For the terminal."""
    moves, policy = result.moves, plan.policy
    n = len(moves.log)
    parts = [_head(result, plan)]
    if result.figures:
        head = ["", "as served", "predicted", "change", f"next {result.upcoming:,} queries"]
        parts.append(markdown_table(head, [_row(name, value) for name, value in result.figures.items()]))
    parts += [f"{_LABELS[name]}: unknown, {why}." for name, why in result.unknown.items()]
    if n:
        down = int(np.sum(moves.served & moves.moved))
        up = int(np.sum(~moves.served & moves.moved))
        line = (
            f"{up + down:,} of {n:,} decisions ({percent((up + down) / n)}) would move: {down:,} from {policy.strong} "
        )
        parts.append(f"{line}to {policy.weak}, {up:,} from {policy.weak} to {policy.strong}.{_forced(moves.forced)}")
        parts += [line for line in (_rated(result), _compared(result)) if line]
    if moves.left_out:
        lines = [f"  {count:,} {why}" for why, count in moves.left_out.items()]
        parts.append("\n".join([f"left out of {n + sum(moves.left_out.values()):,} decisions:", *lines]))
    notes = [_METHOD, *([_QUALITY] if "quality" in result.figures else []), *map(_sentence, result.notes)]
    parts.append("\n".join(notes) if result.figures else "")
    if plan.note:
        parts.append(f"note: {plan.note}")
    return "\n\n".join(part for part in parts if part)


def replay_json(result: ReplayResult, plan: AnyPlan) -> dict[str, Any]:
    """JSON-ready."""
    moves, policy = result.moves, plan.policy
    times = moves.log.created_s
    served, n = moves.served, len(moves.log)
    return {
        "kind": plan.kind,
        "router": policy.router,
        "version": policy.version,
        "threshold": policy.threshold,
        "threshold_in_force": plan.in_force,
        "decisions": n,
        "since_s": float(times[0]) if n else None,
        "until_s": float(times[-1]) if n else None,
        "level": LEVEL,
        "figures": {name: _estimate_json(value) for name, value in result.figures.items()},
        "unknown": dict(result.unknown),
        "next": result.upcoming,
        "moved": {
            "to_weak": int(np.sum(served & moves.moved)),
            "to_strong": int(np.sum(~served & moves.moved)),
            "forced": int(moves.forced.sum()),
        },
        "ratings": {"kept": _ratings_json(result.kept), "moved": _ratings_json(result.moved)},
        "comparisons": {"better": result.better, "worse": result.worse, "equal": result.equal},
        "left_out": dict(moves.left_out),
        "assumptions": [_METHOD, *([_QUALITY] if "quality" in result.figures else []), *map(_sentence, result.notes)],
        "note": plan.note,
    }


def _head(result: ReplayResult, plan: AnyPlan) -> str:
    log, policy = result.moves.log, plan.policy
    line = f"{plan.kind} {policy.router} ({policy.version}) at threshold {significant(policy.threshold, 6)}"
    if plan.in_force is not None:
        line += f", now {significant(plan.in_force, 6)}"
    if not len(log):
        return f"{line}: no decision could be replayed"
    first, last = (datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M") for t in log.created_s[[0, -1]])
    return f"{line}: {len(log):,} decisions from {first} to {last} UTC"


def _row(name: str, value: ReplayedFigure) -> list[str]:
    forms: dict[str, Callable[[float], str]] = {
        "share": percent,
        "cost_usd": lambda v: usd(1000 * v),
        "quality": lambda v: fixed(v, 4),
    }
    form = forms[name]
    return [_LABELS[name], *(_shown(v, form) for v in (value.served, value.predicted, value.change, value.upcoming))]


def _shown(value: Interval, form: Callable[[float], str]) -> str:
    return between(*(form(part) for part in (value.value, value.low, value.high)))


def _forced(forced: Any) -> str:
    count = int(forced.sum())
    if not count:
        return ""
    return (
        f" {count:,} stay where they were, whatever the score: a pool lacked something, failed, or was closed to them."
    )


def _rated(result: ReplayResult) -> str:
    """The ratings of what was served."""
    found = [(result.kept, "that would stay"), (result.moved, "that would move")]
    lines = [f"{_shown(r.mean, lambda v: fixed(v, 3))} over {r.count:,} {which}" for r, which in found if r is not None]
    return f"Ratings of the answers served: {'; '.join(lines)}." if lines else ""


def _compared(result: ReplayResult) -> str:
    total = result.better + result.worse + result.equal
    if not total:
        return ""
    return (
        f"Of {total:,} comparisons on decisions that would move, the pool they move to was better in "
        f"{result.better:,}, worse in {result.worse:,}, equal in {result.equal:,}."
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _estimate_json(value: ReplayedFigure) -> dict[str, Any]:
    return {name: interval_json(getattr(value, name)) for name in ("served", "predicted", "change", "upcoming")}


def _ratings_json(found: ServedRatings | None) -> dict[str, Any] | None:
    return None if found is None else {"count": found.count, "mean": interval_json(found.mean)}
