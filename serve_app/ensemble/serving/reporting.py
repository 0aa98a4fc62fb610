"""What a Decision reports of a run: the candidates with votes and scores, who won, who was missing and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from serve_app.ensemble.base import EnsemblePlan, Round
from serve_app.ensemble.serving.candidates import HeldAnswer
from serve_app.ensemble.serving.choosing import Chosen
from serve_app.ensemble.serving.gathering import Gathering

_SHOWN: Final = 12
"""Candidates whose votes and scores are shown, the best: of fifty the rest say little, and the log keeps them all."""


def described(rounds: Sequence[Round]) -> str:
    """The plan's calls in words: `small x4, large; then large`."""
    return "; then ".join(
        ", ".join(f"{m.name} x{m.samples}" if m.samples > 1 else m.name for m in each.calls) for each in rounds
    )


def reason(gathering: Gathering, choice: Chosen | None, notes: Sequence[str], end: str) -> str:
    """Why this answer: how many candidates there were, why the winner won, what went otherwise, who was missing."""
    held = gathering.held
    counts = Counter(one.member for one in held)
    said = []
    if held:
        members = ", ".join(f"{member} x{n}" if n > 1 else member for member, n in counts.items())
        distinct = len({one.keys for one in held})
        said.append(f"{len(held)} candidates of {members}, {distinct} distinct" if len(held) > 1 else members)
    if choice is not None:
        said += [f"{choice.best.label}: {choice.why}", *choice.notes]
    return "; ".join([*said, *dict.fromkeys(notes), *_missing(gathering), end])


def _missing(gathering: Gathering) -> list[str]:
    """Members that gave no answer, or one with a flaw, each with the reason and how often."""
    found: Counter[tuple[str, str]] = Counter()
    for call in gathering.calls:
        if call.error is not None:
            found[call.member.name, f"failed: {call.error.code}"] += 1
        elif call.interrupted:
            found[call.member.name, f"was {call.interrupted}"] += 1
    for one in (*gathering.held, *gathering.silent):
        if one.flaw:
            found[one.member, one.flaw] += 1
    return [f"{member} {why}{f' ({n} times)' if n > 1 else ''}" for (member, why), n in found.items()]


def figures(held: Sequence[HeldAnswer], choice: Chosen | None) -> dict[str, float]:
    """Votes and score of the best candidates, JSON-ready; the votes for what a candidate says, its own included."""
    if choice is None:
        return {}
    counts = Counter(key for one in held for key in one.keys)
    found: dict[str, float] = {}
    for one in choice.order[:_SHOWN]:
        found[f"{one.label}:votes"] = max(counts[key] for key in one.keys)
        if one in choice.scores:
            found[f"{one.label}:score"] = round(choice.scores[one], 6)
    return found


def outcomes(plan: EnsemblePlan) -> Mapping[str, Mapping[str, float]]:
    """What is expected of the whole plan, and of each member alone, as fitted."""
    whole = {name: float(value) for name, value in plan.expected.items() if ":" not in name}
    found: dict[str, dict[str, float]] = {"ensemble": whole} if whole else {}
    for member in plan.members:
        if (quality := plan.expected.get(f"quality:{member.name}")) is not None:
            found[member.name] = {"quality": float(quality)}
    return found
