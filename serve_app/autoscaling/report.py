"""A comparison of scaling rules as JSON, Markdown and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serve_app import plots
from serve_app.autoscaling.comparison import DEFAULT, OURS, QUEUE, RAY_TARGET, RuleComparison, RuleFigures, Scenario

_HEAD = (
    *("rule", "large h", "small h", "strong TTFT p50 / p95 / p99 s", "weak TTFT p50 / p95 / p99 s"),
    *("goodput %", "shed %", "changes"),
)


def to_json(found: Sequence[RuleComparison], scenario: Scenario) -> dict[str, Any]:
    """Everything that was measured, by trace; numbers that are not finite become null."""
    body = {
        "slo_s": scenario.slo_s,
        "pools": {n: {**asdict(m), "limits": asdict(scenario.limits[n])} for n, m in scenario.models.items()},
        "settings": asdict(scenario.settings),
        "control": asdict(scenario.control),
        "default": {"delays": asdict(scenario.delays), "reports": asdict(scenario.reports)},
        "traces": {c.trace: _trace(c) for c in found},
    }
    cleaned = _finite(body)
    assert isinstance(cleaned, dict)
    return cleaned


def to_markdown(found: Sequence[RuleComparison], scenario: Scenario) -> str:
    """A table of savings, how to read it, and a table by trace."""
    return "\n".join([_savings(found), _reading(scenario), *(_figures(c) for c in found)])


def _savings(found: Sequence[RuleComparison]) -> str:
    head = (
        *("trace", "ours, large h", "goodput %", "Serve's default, large h", "goodput %", "saved"),
        *("swept: hours saved at equal goodput", "swept: TTFT p95 saved at equal hours", "line"),
    )
    rows = []
    for c in found:
        s, line = c.saving, "reached" if c.saving.reached else "not reached"
        both = [f"{x:.2f}" for f in (c.rules[OURS], c.rules[DEFAULT]) for x in (f.large_hours, 100 * f.goodput)]
        hours = f"{_percent(s.hours)}{'*' if s.goodput_out_of_reach else ''}"
        ttft = f"{_percent(s.ttft)}{'†' if s.hours_out_of_reach else ''}"
        rows.append((c.trace, *both, _percent(c.saved_as_it_comes), hours, ttft, line))
    return _table(head, rows)


def _reading(scenario: Scenario) -> str:
    delays, reports = scenario.delays, scenario.reports
    return (
        f"Goodput: share of all queries whose first token came within {scenario.slo_s:g} s. Serve's default as it is: "
        f"target_ongoing_requests {RAY_TARGET:g}, up after {delays.up_s:g} s, down after {delays.down_s:g} s, reports "
        f"every {reports.push_s:g} s, look-back {reports.look_back_s:g} s; hours saved against it stand only where "
        "ours is as good (to 0.1 % of the queries). The last columns are against the default swept over "
        "target_ongoing_requests: its large replica-hours at our goodput, and its strong TTFT p95 at our "
        "replica-hours, interpolated between its settings. Line: at least 25 % saved on one of these two, and no loss "
        "above 5 % on the other.\n\n"
        "\\* The default is at no setting as good as ours; compared with the hours of its best.\n"
        "† The default is at no setting as cheap as ours; compared at the hours of its cheapest, which ours is made to "
        "cost by longer holds.\n"
    )


def _figures(c: RuleComparison) -> str:
    named: dict[str, RuleFigures] = dict(c.rules)
    named |= {f"{DEFAULT}, target {target:g}": figures for target, figures in c.frontier.items()}
    named |= {f"{OURS}, hold {hold:g} s": figures for hold, figures in c.holds.items()}
    return f"### {c.trace}\n\n{_table(_HEAD, [_row(name, f) for name, f in named.items()])}"


def _row(name: str, f: RuleFigures) -> tuple[str, ...]:
    strong = f"{f.strong_p50_s:.2f} / {f.strong_p95_s:.2f} / {f.strong_p99_s:.2f}"
    weak = f"{f.weak_p50_s:.2f} / {f.weak_p95_s:.2f} / {f.weak_p99_s:.2f}"
    shares = (f"{100 * f.goodput:.2f}", f"{100 * f.shed:.2f}")
    return (name, f"{f.large_hours:.2f}", f"{f.small_hours:.2f}", strong, weak, *shares, f"{f.changes:.0f}")


def _trace(c: RuleComparison) -> dict[str, Any]:
    return {
        "rules": {name: asdict(f) for name, f in c.rules.items()},
        "default_by_target": {f"{t:g}": asdict(f) for t, f in c.frontier.items()},
        "ours_by_hold_s": {f"{t:g}": asdict(f) for t, f in c.holds.items()},
        "saved_as_it_comes": c.saved_as_it_comes,
        "saving": {**asdict(c.saving), "reached": c.saving.reached},
    }


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:+.0f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(head) - 1), *lines[1:]]) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value


_COLORS = {OURS: plots.color(0), DEFAULT: plots.color(1), QUEUE: plots.color(2), "oracle": plots.GREY}


def plot(found: Sequence[RuleComparison], path: Path) -> None:
    """One PNG, a row for each trace: large replicas, calls that wait, frontier. Raises DependencyError."""
    figure, axes = plots.new_figure(3, 5, 2.7, rows=len(found), squeeze=False)
    for row, comparison in zip(axes, found, strict=True):
        _over_time(row[0], row[1], comparison)
        _frontier(row[2], comparison)
    axes[0][0].legend(fontsize=7)
    axes[0][2].legend(fontsize=7)
    plots.save(figure, path)


def _over_time(replicas: Any, queue: Any, comparison: RuleComparison) -> None:
    for name, outcome in comparison.runs.items():
        line, minutes = outcome.timeline, outcome.timeline.at_s / 60
        replicas.step(minutes, line.target["large"], where="post", color=_COLORS[name], linewidth=0.9, label=name)
        queue.plot(minutes, line.queued["large"], color=_COLORS[name], linewidth=0.9)
    replicas.set(title=comparison.trace, xlabel="minutes", ylabel="target of large replicas")
    queue.set(xlabel="minutes", ylabel="strong calls that wait")


def _frontier(axes: Any, comparison: RuleComparison) -> None:
    swept = sorted(comparison.frontier.values(), key=lambda f: f.large_hours)
    held = sorted(comparison.holds.values(), key=lambda f: f.large_hours)
    for points, name, label in ((swept, DEFAULT, "default by target"), (held, OURS, "ours by hold")):
        hours, p95 = [f.large_hours for f in points], [f.strong_p95_s for f in points]
        axes.plot(hours, p95, "o-", color=_COLORS[name], markersize=3, linewidth=0.8, label=label)
    for name, figures in comparison.rules.items():
        axes.plot(figures.large_hours, figures.strong_p95_s, "*", color=_COLORS[name], markersize=9)
    axes.set(xlabel="large replica-hours", ylabel="strong TTFT p95, s", yscale="log")
