"""A stream's figures as lines for people."""

from collections.abc import Iterator, Mapping
from typing import Any


def lines(stream: Mapping[str, Any]) -> Iterator[str]:
    """What matters first; counts that are zero and mean trouble are left out."""
    yield f"stream {stream['id']} ({stream['model']}): {stream['state']}"
    if stream["error"]:
        yield f"  error: {stream['error']}"
    figures = stream["figures"]
    if not figures:
        return
    yield f"  queries {figures['queries']:,}, of them " + ", ".join(
        f"{level} {part:.1%}" for level, part in figures["share"].items()
    )
    yield f"  labels learned {figures['labelled']:,}, policy version {figures['version']:,}"
    yield from _learner(figures["learner"])
    for key, words in _TROUBLE.items():
        if figures[key]:
            yield f"  {words}: {figures[key]:,}"


_TROUBLE: Mapping[str, str] = {
    "unparsed": "LLM answers that named no label",
    "failed": "queries that the LLM failed",
    "lost": "events lost in Gateways (queue full)",
    "refused": "events that could not be learned from",
    "corrupt": "checkpoints or journal lines that could not be read",
}


def _learner(told: Mapping[str, Any]) -> Iterator[str]:
    if told.get("warming_up"):
        yield "  warming up: the LLM answers all"
    if told.get("agreement") is not None:
        yield f"  agreement with the LLM in audits, of late: {told['agreement']:.1%}"
    for level, part in (told.get("level_agreement") or {}).items():
        if part is not None:
            yield f"  {level} agrees with the LLM, where that was asked: {part:.1%}"
    if told.get("drift_alarms"):
        yield f"  changes of the labels that were noticed: {told['drift_alarms']:,}"
    if told.get("drift_looks"):
        yield f"  alarms that were looked at twice: {told['drift_looks']:,}"
