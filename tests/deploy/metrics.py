"""Names of the series that the product exports, read from where they are made, and those that texts ask for."""

import re
from functools import cache
from pathlib import Path

import ray

ROOT = Path(__file__).parents[2]
_MADE = re.compile(r"\b([Cc]ounter|[Gg]auge|[Hh]istogram|CounterMetricFamily|GaugeMetricFamily)\(\s*f?\"([a-z_]+)\"")
_ENDS = {"Counter": ("_total",), "CounterMetricFamily": ("_total",), "Histogram": ("_bucket", "_sum", "_count")}
OPERATOR = {"kuberay_service_condition_ready", "kuberay_service_condition_upgrade_in_progress"}
"""KubeRay 1.7's, as its documentation names them: there is no source of it here."""


@cache
def exported() -> frozenset[str]:
    """Ours, ours through Ray (`ray_`), Ray's own, and the operator's."""
    names = set(OPERATOR)
    for file in (ROOT / "serve_app").rglob("*.py"):
        text = file.read_text()
        prefix = "ray_" if "ray.util.metrics" in text else ""
        for kind, name in _MADE.findall(text):
            names |= {prefix + name + end for end in _ENDS.get(kind[0].upper() + kind[1:], ("",))}
    folder = Path(ray.__file__).parent
    for file in ("dashboard/modules/reporter/reporter_agent.py", "serve/_private/deployment_state.py"):
        names |= {f"ray_{name}" for name in re.findall(r"\"([a-z_]+)\",\n", (folder / file).read_text())}
    return frozenset(names)


def asked_for(expression: str) -> set[str]:
    """Metric names in a PromQL expression."""
    return set(re.findall(r"\b(?:jethro|ray|kuberay)_[a-z_]+(?=[\s\[{()/]|$)", expression)) - {"ray_io_cluster"}
