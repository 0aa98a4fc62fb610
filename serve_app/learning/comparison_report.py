"""A comparison as Markdown and JSON: one row a kind, best APGR first, and the recommendation."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.learning.comparison import BASELINE, Candidate, Plan
from serve_app.learning.dataset import Dataset
from serve_app.learning.evaluation import interval_json
from serve_app.learning.recommendation import difference, recommend
from serve_app.learning.report import markdown_table, told


def comparison_markdown(candidates: Sequence[Candidate], refused: Mapping[str, str], plan: Plan) -> str:
    """The report of a comparison."""
    rows = [_row(c) for c in candidates]
    head = ["router", "APGR", "CPT(50)", "CPT(80)", "AUC", "drop at 20% advantage", f"strong calls at {plan.target}"]
    head += ["drop there", "runs", "ms a decision", "fit s"]
    first = candidates[0].evaluation
    parts = [
        "# Routers compared",
        f"{first.queries:,} queries in {plan.folds} folds, each scored by a router fitted on the other folds; always "
        f"weak {first.curve.weak:.4f}, always strong {first.curve.strong:.4f}, APGR of the oracle "
        f"{first.oracle_apgr:.3f}. In brackets 95 % bootstrap intervals.",
        markdown_table(head, rows),
        *(f"{kind} could not take part: {reason}" for kind, reason in refused.items()),
        f"Recommended: {recommend(candidates).reason}.",
    ]
    return "\n\n".join(parts) + "\n"


def comparison_json(
    candidates: Sequence[Candidate], refused: Mapping[str, str], plan: Plan, dataset: Dataset
) -> dict[str, Any]:
    """JSON-ready, with the curves."""
    found = recommend(candidates)
    return {
        "data": {"digest": dataset.digest(), "queries": len(dataset), **dataset.about},
        "models": {"weak": dataset.weak.model, "strong": dataset.strong.model},
        "folds": plan.folds,
        "seed": plan.seed,
        "target": str(plan.target),
        "params": {kind: dict(params) for kind, params in plan.params.items()},
        "recommended": found.kind,
        "reason": found.reason,
        "refused": dict(refused),
        "routers": [_json(c, candidates) for c in candidates],
    }


def _json(candidate: Candidate, candidates: Sequence[Candidate]) -> dict[str, Any]:
    chance = next(c for c in candidates if c.kind == BASELINE)
    return {
        "kind": candidate.kind,
        "placement": candidate.placement,
        "decision_ms": round(candidate.decision_ms, 4),
        "fit_s": round(candidate.fit_s, 2),
        "at_target": {"share": candidate.share, "quality": candidate.quality, "drop": candidate.drop},
        "apgr_behind_best": interval_json(difference(candidates[0], candidate)),
        "apgr_over_random": interval_json(difference(candidate, chance)),
        **candidate.evaluation.to_json(),
    }


def _row(candidate: Candidate) -> list[str]:
    figures = candidate.evaluation.figures
    plain = [f"{figures[name].value:.3f}" for name in ("cpt50", "cpt80", "auc")]
    return [
        candidate.kind,
        told(figures["apgr"]),
        *plain,
        told(figures["drop_at_20%"], percent=True),
        f"{100 * candidate.share:.1f} %",
        f"{100 * candidate.drop:.2f} %",
        candidate.placement,
        f"{candidate.decision_ms:.2g}",
        f"{candidate.fit_s:.1f}",
    ]
