"""Decisions in words for people: pure text, no I/O."""

from collections.abc import Mapping
from typing import Any

_FEATURES_SHOWN = 6
_CONTROL = {c: None for c in (*range(32), 127, *range(128, 160)) if chr(c) not in "\n\t"}


def printable(text: str) -> str:
    """A model's text without control characters, which could command the terminal."""
    return text.translate(_CONTROL)


def explain_answer(told: Mapping[str, Any]) -> str:
    """One line under an answer: who answered, why, at what cost. `told` is the `jethro` object or its headers."""
    parts = [" ".join(str(told[k]) for k in ("pool", "model") if told.get(k)), str(told.get("reason") or _score(told))]
    cost_usd = told.get("cost_usd", told.get("cost-usd"))
    if cost_usd is not None:
        parts.append(f"${float(cost_usd):.3g}")
    if told.get("usage"):
        parts.append(f"{told['usage'].get('completion_tokens', 0)} tokens")
    return printable("[" + " · ".join(p for p in parts if p) + "]")


def explain_decision(decision: Mapping[str, Any]) -> str:
    """Several lines: the choice and its reason, what was expected of each action, what moved the score."""
    rows = [("answers", f"{decision.get('pool', '?')} ({decision.get('model', '?')})")]
    rows += [("because", str(decision.get("reason") or _score(decision)))]
    rows += [(name, str(decision[name])) for name in ("strategy", "router") if decision.get(name)]
    for action, figures in (decision.get("expected") or {}).items():
        rows.append((f"expects {action}", ", ".join(f"{k} {float(v):.3g}" for k, v in figures.items())))
    features = [f for f in (decision.get("features") or {}).items() if f[0] != "bias"][:_FEATURES_SHOWN]
    if features:
        rows.append(("moved by", ", ".join(f"{name} {float(weight):+.2f}" for name, weight in features)))
    width = max(len(name) for name, _ in rows) + 2
    return printable("\n".join(f"{name:<{width}}{text}" for name, text in rows))


def _score(told: Mapping[str, Any]) -> str:
    """`0.031 < 0.42`: the strong win rate against the threshold; empty where nothing was scored."""
    score, threshold = told.get("score"), told.get("threshold")
    if score in (None, "") or threshold in (None, ""):
        return ""
    sign = ">=" if float(score) >= float(threshold) else "<"
    return f"{float(score):.3f} {sign} {float(threshold):.3f}"
