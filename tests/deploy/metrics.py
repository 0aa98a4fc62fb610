"""Names and labels that queries use, against those that are defined."""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from serve_app.observability import definitions as d

_SCRAPE = ("job", "instance", "ray_io_cluster")
"""Labels that Prometheus adds, or the monitors' relabeling."""
_NAME = r"(?:(?:jethro|ray|kuberay)_|vllm:)[a-z0-9_]+"
_LABEL_VALUES = {**d.VALUES, "reason": (*d.CAUSES, *d.RETRY_REASONS)}


class Selector(NamedTuple):
    """A metric in an expression, with its matchers: label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


@cache
def labels_by_series() -> dict[str, frozenset[str]]:
    """By the name of a series that is defined: its labels."""
    ours = {series: frozenset((*m.shown_labels, *_SCRAPE)) for m in d.definitions() for series in m.series}
    return ours | {m.name: frozenset((*m.labels, *_SCRAPE)) for m in d.FOREIGN}


def selectors(expression: str) -> list[Selector]:
    """Every metric of a PromQL expression."""
    found = []
    for name, inside in re.findall(rf"(?<![\w:])({_NAME})(?:\{{([^}}]*)\}})?(?!\w)", expression):
        if name in _SCRAPE:  # a label that begins as metrics of Ray do
            continue
        matchers = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
        found.append(Selector(name, tuple(matchers)))
    return found


def mistakes(expression: str) -> Iterator[str]:
    """What an expression uses that is not defined: metrics, labels, and values of labels that have few."""
    known = labels_by_series()
    found = selectors(expression)
    if not found:
        yield "no metric of ours"
    for metric, matchers in found:
        if metric not in known:
            yield f"{metric} is not defined"
            continue
        for label, operator, value in matchers:
            if label not in known[metric]:
                yield f"{metric} has no label {label}"
            elif label in _LABEL_VALUES and value and not any(re.fullmatch(value, v) for v in _LABEL_VALUES[label]):
                yield f"{label}{operator}{value!r} is no value of it"
            elif label == "code" and not (re.fullmatch(r"[\d.|]+", value)):
                yield f"{label}{operator}{value!r} is no HTTP status"
    of_all = frozenset().union(*(known.get(s.metric, frozenset()) for s in found))
    for names in re.findall(r"\b(?:by|on|ignoring|without) \(([\w, ]*)\)", expression):
        for label in filter(None, (name.strip() for name in names.split(","))):
            if label not in of_all:
                yield f"grouped by {label}, which no metric there has"
