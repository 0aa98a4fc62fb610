"""Evaluations as Markdown: one table of figures, one of thresholds, each value with its interval."""

from collections.abc import Sequence

import numpy as np

from serve_app.learning.evaluation import Evaluation
from serve_app.learning.metrics import Interval
from serve_app.learning.resampling import ADVANTAGES

_PLAIN = {
    "apgr": "APGR",
    "cpt50": "CPT(50), share of strong calls",
    "cpt80": "CPT(80), share of strong calls",
    "auc": "AUC of 'the strong model is better'",
    "calibration_error": "calibration error",
    "weak_quality": "quality, always weak",
    "strong_quality": "quality, always strong",
}


def evaluation_markdown(evaluation: Evaluation) -> str:
    """The report of one router, with the random router and the oracle beside it where they have a figure."""
    rows = [[name, _told(evaluation.figures[key]), *_bounds(evaluation, key)] for key, name in _PLAIN.items()]
    rows += [
        [
            f"quality drop at {advantage:.0%} cost advantage",
            _told(evaluation.figures[f"drop_at_{advantage:.0%}"], percent=True),
            *_drops(evaluation, advantage),
        ]
        for advantage in ADVANTAGES
    ]
    parts = [
        f"# {evaluation.router} ({evaluation.version})",
        f"{evaluation.queries:,} queries; in brackets 95 % bootstrap intervals.",
        markdown_table(["figure", "router", "random", "oracle"], rows),
        _thresholds(evaluation),
        "Cost advantage is the share of queries that the weak model answers; drop is (strong - router) / |strong|. "
        f"APGR over RouteLLM's score deciles: {_plain(evaluation.routellm_apgr)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns of even width."""
    table = [list(head), *map(list, rows)]
    width = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:]])


def told(value: Interval, percent: bool = False) -> str:
    """A figure with its interval, `-` where it does not exist."""
    return _told(value, percent)


def _thresholds(evaluation: Evaluation) -> str:
    if not evaluation.thresholds:
        return ""
    rows = []
    for threshold in evaluation.thresholds:
        at = evaluation.at(threshold)
        costs = [f"{at['cost_usd'].value:.3g}" if at["cost_usd"].value else "-", _told(at["cost_share"], percent=True)]
        share, drop = (_told(at[name], percent=True) for name in ("share", "drop"))
        rows.append([f"{threshold:.6g}", share, _told(at["quality"]), drop, _told(at["pgr"]), *costs])
    head = ["threshold", "strong calls", "quality", "drop", "PGR", "USD a query", "cost of always strong"]
    return markdown_table(head, rows)


def _bounds(evaluation: Evaluation, key: str) -> list[str]:
    """The same figure of the random router (in expectation) and of the oracle."""
    random = {"apgr": "0.500", "cpt50": "0.500", "cpt80": "0.800", "auc": "0.500"}.get(key, "")
    return [random if evaluation.curve.weak != evaluation.curve.strong else "", _oracle(evaluation, key)]


def _oracle(evaluation: Evaluation, key: str) -> str:
    return _plain(evaluation.oracle_apgr) if key == "apgr" else ""


def _drops(evaluation: Evaluation, advantage: float) -> list[str]:
    strong, weak = evaluation.curve.strong, evaluation.curve.weak
    size = abs(strong) or 1.0
    oracle = evaluation.oracle.quality_at(1 - advantage)
    return [f"{100 * advantage * (strong - weak) / size:.2f} %", f"{100 * (strong - oracle) / size:.2f} %"]


def _told(value: Interval, percent: bool = False) -> str:
    if not np.isfinite(value.value):
        return "-"
    if percent:
        return f"{100 * value.value:.2f} % [{100 * value.low:.2f}, {100 * value.high:.2f}]"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _plain(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
