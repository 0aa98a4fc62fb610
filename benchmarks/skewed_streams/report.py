"""The report of a result, in Markdown."""

from typing import Any

from benchmarks.skewed_streams.runs import CASCADE, MARGINS
from benchmarks.stamp import one_line
from benchmarks.table import markdown


def text(result: dict[str, Any]) -> str:
    """All tables, with what was measured how."""
    parts = [
        f"# Streams with even labels and with one common label: {result['data']}\n\n"
        f"Labels of `{result['expert']}` as the LLM's, {result['seeds']} seeds of draw, order and learner. `even` is "
        "half of the file as it is; the other streams are the file thinned until that label has two thirds of the "
        "rows. Margin sampling has the cascade's students, unbalanced or always balanced, and makes as many LLM calls "
        "as the cascade of the same seed. Differences are in points, paired by seed, ± one standard error.\n",
        _verdict(result),
    ]
    for name, shares in result["streams"].items():
        title = f"two thirds {name}" if name != "even" else "even labels"
        llm = 100 * result["llm"][name]["mean"]
        parts.append(f"## {title}: {result['queries'][name]:,} queries, the LLM alone {llm:.1f} %\n")
        parts.append(_table("accuracy, %", shares, "accuracy"))
        parts.append(_differences("the cascade's accuracy minus that of", shares, "against"))
        parts.append(_table("mean recall over labels, %", shares, "mean_recall"))
        parts.append(_differences("the cascade's mean recall minus that of", shares, "recall_against"))
    stamp = result["environment"]
    parts.append(f"`python -m benchmarks.skewed_streams {stamp['command']}`  \n{one_line(stamp)}\n")
    return "\n".join(parts)


def _verdict(result: dict[str, Any]) -> str:
    below = [one for one in result["verdict"] if not one["not_below"]]
    lines = [
        f"- {one['stream']}, {float(one['share']):.0%}: {_signed(one['difference'])} points against {one['baseline']}"
        for one in below
    ]
    count = len(result["verdict"])
    head = f"The cascade is below margin sampling by more than two standard errors in {len(below)} of {count} cases"
    return head + (":\n\n" + "\n".join(lines) if lines else ".") + "\n"


def _table(name: str, shares: dict[str, Any], key: str) -> str:
    methods = next(iter(shares.values()))
    rows = [[method, *(_spread(one[method][key]) for one in shares.values())] for method in methods]
    return markdown([f"{name}, ± half of the 95 % interval", *_heads(shares)], rows)


def _differences(name: str, shares: dict[str, Any], key: str) -> str:
    methods = [method for method in next(iter(shares.values())) if method != CASCADE]
    rows = [[method, *(_signed(one[method][key]) for one in shares.values())] for method in methods]
    calls = [f"{sum(one[CASCADE]['calls']) / len(one[CASCADE]['calls']):,.0f}" for one in shares.values()]
    equal = all(one[m]["calls"] == one[CASCADE]["calls"] for one in shares.values() for m in MARGINS)
    rows.append([f"LLM calls, {'equal' if equal else 'NOT EQUAL'} by seed for margin sampling", *calls])
    return markdown([name, *_heads(shares)], rows)


def _heads(shares: dict[str, Any]) -> list[str]:
    return [f"{float(share):.0%} of calls" for share in shares]


def _spread(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f} ± {100 * value['half']:.1f}"


def _signed(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:+.2f} ± {100 * value['error']:.2f}"
