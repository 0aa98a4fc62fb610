"""Tables and plot of `benchmarks.task_adapters`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.stamp import one_line
from benchmarks.table import markdown
from serve_app import plots


def text(found: dict[str, Any], why_skipped: str | None = None) -> str:
    """The result as Markdown."""
    parts = ["# Task adapters\n"]
    if "lab" in found:
        parts += _lab(found["lab"])
    if "smollm2" in found:
        parts += _smollm2(found["smollm2"])
    else:
        parts.append(f"SmolLM2-135M-Instruct was not measured: {why_skipped}.\n")
    return "\n".join(parts)


def _lab(part: dict[str, Any]) -> list[str]:
    rows: list[list[object]] = [
        [
            row["task"],
            row["rank"],
            *(_with_interval(row[name]) for name in ("small", "adapted", "large")),
            f"{100 * row['adapted']['usd_per_thousand'] / row['large']['usd_per_thousand']:.1f}",
        ]
        for row in part["tasks"]
    ]
    both = part["all"]
    total: list[object] = ["**all**", ""]
    total += [f"{100 * both[name]['exact']:.1f}" for name in ("small", "adapted", "large")]
    rows.append([*total, f"{100 * both['cost_of_large']:.1f}"])
    head = ("task", "rank", "small, %", "small + adapter, %", "large, %", "cost, % of large")
    first = part["tasks"][0]
    said = (
        f"{first['n']} unseen queries of each task, balanced over all of its sizes; exact answers under greedy "
        f"decoding, with 95 % intervals. Small + adapter has {100 * both['quality_of_large']:.1f} % of large's quality "
        f"at {100 * both['cost_of_large']:.1f} % of its cost. Cost is tokens times price (small 0.1, large 1.0 USD per "
        f"million); with an adapter the price grows with the parameters, {first['small_parameters']:,} and "
        f"{first['adapter_parameters']:,} of the adapter in the first row.\n"
    )
    return [
        "## The lab's small model\n",
        said,
        markdown(head, rows),
        *_missed(part),
        one_line(part["environment"]) + "\n",
    ]


def _smollm2(part: dict[str, Any]) -> list[str]:
    def row(name: str, one: dict[str, Any]) -> list[object]:
        low, high = one["accuracy_95"]
        return [
            name,
            one["method"],
            one["prompt"],
            f"{100 * one['accuracy']:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
        ]

    rows = [row("without", one) for one in part["base"]] + [row("**with adapter**", one) for one in part["adapted"]]
    training = part["training"]
    said = (
        f"{part['model']} on {part['measured']} unseen rows of ISEAR, seven emotions. The adapter (rank "
        f"{training['rank']}) was trained on {training['rows'] + training['held_out']:,} rows, {training['held_out']} "
        f"of which are held out, {training['epochs']} epoch on the CPU{_time(training)}. It adds "
        f"{100 * part['gain']:.1f} points to the better of the base model's choice and free answer, and "
        f"{100 * part['gain_over_calibrated']:.1f} to its calibrated choice, which subtracts each label's mean "
        f"log-probability over texts of the task. Prompts were chosen on {part['chosen_on']} rows of their own.\n"
    )
    head = ("adapter", "method", "prompt", "accuracy, %", "95 %")
    return ["## SmolLM2\n", said, markdown(head, rows), *_missed(part), one_line(part["environment"]) + "\n"]


def _time(training: dict[str, Any]) -> str:
    """What the training took; nothing for a run that was resumed, since earlier processes are not counted."""
    if "cpu_seconds" not in training:
        return ""
    core, clock = training["cpu_seconds"] / 60, training["seconds"] / 60
    return f": {core:.0f} minutes of one core ({clock:.0f} by the clock, on cores shared with other work)"


def _missed(part: dict[str, Any]) -> list[str]:
    return ["Missed: " + "; ".join(part["missed"]) + ".\n"] if part["missed"] else []


def _with_interval(one: dict[str, Any]) -> str:
    low, high = (100 * end for end in one["exact_95"])
    return f"{100 * one['exact']:.1f} ({low:.1f} to {high:.1f})"


def draw(found: dict[str, Any], path: Path) -> None:
    """Exact answers by task, a bar a model; next to it SmolLM2's, where it was measured."""
    panels = [name for name in ("lab", "smollm2") if name in found]
    figure, axes = plots.new_figure(len(panels), 6.4, 4.2, squeeze=False)
    for panel, name in zip(axes[0], panels, strict=True):
        part = found[name]
        if name == "lab":
            labels = [row["task"] for row in part["tasks"]]
            bars = {
                "small": [row["small"]["exact"] for row in part["tasks"]],
                "small + adapter": [row["adapted"]["exact"] for row in part["tasks"]],
                "large": [row["large"]["exact"] for row in part["tasks"]],
            }
            _bars(panel, labels, bars)
            plots.finish(panel, "Lab tasks, all sizes, unseen queries", ylabel="exact, %", ylim=(0, 125))
        else:
            best = {row["method"]: row["accuracy"] for row in part["base"]}
            with_it = {row["method"]: row["accuracy"] for row in part["adapted"]}
            methods = list(best)
            bars = {
                "SmolLM2-135M-Instruct": [best[method] for method in methods],
                "with adapter": [with_it.get(method, float("nan")) for method in methods],
            }
            _bars(panel, methods, bars)
            plots.finish(panel, "ISEAR, unseen rows", ylabel="accuracy, %", ylim=(0, 100))
        panel.tick_params(axis="x", labelsize=8)
    plots.caption(figure, "; ".join(dict.fromkeys(one_line(found[name]["environment"]) for name in panels)))
    plots.save(figure, path)


def _bars(axes: Any, labels: Sequence[str], bars: dict[str, list[float]]) -> None:
    width = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        places = [at + (number - (len(bars) - 1) / 2) * width for at in range(len(labels))]
        axes.bar(places, [100 * value for value in values], width, label=name, color=plots.color(number))
    axes.set_xticks(range(len(labels)), labels)
