"""The report of a result, in Markdown."""

from typing import Any

import numpy as np

from benchmarks.online_cascade.figures import WINDOW
from benchmarks.online_cascade.methods import CASCADE, LEARNED, PLAIN
from benchmarks.stamp import one_line
from benchmarks.table import markdown


def text(result: dict[str, Any]) -> str:
    """All tables, with what was measured how."""
    llm = result["llm"]["accuracy"]["mean"]
    head = (
        f"# Online cascade learning on {result['data']}\n\n"
        f"{result['queries']:,} queries (the {result['half']} half), labels of `{result['expert']}` as the LLM's, "
        f"{result['seeds']} seeds of order and learner, audits {result['audit_share']:.1%}. Accuracy in % against the "
        f"gold labels, ± half of the 95 % interval over seeds; the LLM alone has {100 * llm:.1f}. Baselines make as "
        f"many calls as the cascade of the same seed, by students that are not balanced. The released algorithm has "
        f"no budget but a price, and runs here on the cascade's levels, a logistic regression and a head on frozen "
        f"MiniLM vectors, where the paper fine-tunes BERT-base: its rows are the replays nearest to each budget, with "
        f"the calls that they made.\n\n"
    )
    parts = [head, _bars(result), _budgets(result)]
    if "equal_calls" in result:
        parts.append(_equal_calls(result["equal_calls"]))
    parts.append(_recall(result))
    if "ablation" in result:
        parts.append(_ablation(result))
    if "shift" in result:
        parts.append(_shift(result))
    stamp = result["environment"]
    parts.append(f"`python -m benchmarks.online_cascade {stamp['command']}`  \n{one_line(stamp)}\n")
    return "\n".join(parts)


def _bars(result: dict[str, Any]) -> str:
    lines = []
    for bar in result["bars"]:
        best, against = bar["best_baseline"], _signed(bar["against_best"])
        lines.append(
            f"- At {bar['share']:.0%} of LLM calls: {100 * bar['value']:.1f} (bar {100 * bar['bar']:.0f}, "
            f"{'reached' if bar['reached'] else 'MISSED'}), {'above' if bar['above_all'] else 'NOT above'} all "
            f"{bar['baselines']} baselines; best of them is {best}: {against} points over it, paired by seed. "
            f"Within the 95 % interval: {', '.join(bar['within_interval']) or 'none'}."
        )
    for share, methods in result["budgets"].items():
        kept = methods[CASCADE]["accuracy"]["mean"] / result["llm"]["accuracy"]["mean"]
        lines.append(
            f"- {float(share):.0%} of LLM calls keep {kept:.0%} of the LLM's accuracy. Deferral by margin is "
            f"{_signed(methods[LEARNED]['against'])} points over learned deferral of the same levels."
        )
    return "\n".join(lines) + "\n"


def _budgets(result: dict[str, Any]) -> str:
    budgets = result["budgets"]
    names = list(next(iter(budgets.values())))
    rows = [[name, *(_accuracy(name, budgets[share][name]) for share in budgets)] for name in names]
    table = markdown(["accuracy at LLM calls of", *(f"{float(share):.0%}" for share in budgets)], rows)
    equal = [name for name in names if name not in (CASCADE, PLAIN)]
    differences = [[name, *(_signed(budgets[share][name]["against"]) for share in budgets)] for name in equal]
    rows = [["calls made, %", *(f"{100 * budgets[share][CASCADE]['share']['mean']:.1f}" for share in budgets)]]
    return (
        table
        + "\nThe cascade's advantage in points at equal calls, paired by seed:\n\n"
        + markdown(["cascade minus", *(f"{float(share):.0%}" for share in budgets)], differences + rows)
    )


def _equal_calls(equal: dict[str, Any]) -> str:
    shares = [share for share in equal if share != "environment"]
    ones = [equal[share] for share in shares]
    rows = [
        ["calls made, %", *(f"{100 * one[PLAIN]['share']['mean']:.1f}" for one in ones)],
        [PLAIN, *(_spread(one[PLAIN]["accuracy"]) for one in ones)],
        [f"{CASCADE}, as many calls", *(_spread(one[CASCADE]["accuracy"]) for one in ones)],
        ["cascade minus released", *(_signed(one["against"]) for one in ones)],
    ]
    stamp = f"\n{one_line(equal['environment'])}\n" if "environment" in equal else ""
    return (
        "The released algorithm at the price nearest to each budget, and the cascade given as many LLM calls, seed by "
        "seed:\n\n" + markdown(["accuracy", *(f"nearest {float(s):.0%}" for s in shares)], rows) + stamp
    )


def _accuracy(name: str, one: dict[str, Any]) -> str:
    calls = f" ({100 * one['share']['mean']:.1f}% of calls)" if name == PLAIN else ""
    return _spread(one["accuracy"]) + calls


def _recall(result: dict[str, Any]) -> str:
    parts = []
    for share in ("0.2", "0.4"):
        methods = result["budgets"].get(share)
        if methods is None:
            continue
        everyone = {**methods, "LLM alone": result["llm"]}
        rows = [
            [name, *(f"{100 * r:.1f}" for r in one["recall"]), f"{100 * min(one['recall']):.1f}"]
            for name, one in everyone.items()
        ]
        parts.append(
            f"Recall in % by class at {float(share):.0%} of LLM calls:\n\n"
            + markdown(["method", *result["labels"], "least"], rows)
        )
    return "\n".join(parts)


def _ablation(result: dict[str, Any]) -> str:
    shares = list(result["ablation"])
    names = list(result["ablation"][shares[0]])
    rows = []
    for name in names:
        ones = [result["ablation"][share][name] for share in shares]
        cells = [
            f"{_spread(o['accuracy'])} ({_signed(o['against'])})"
            if "against" in o and PLAIN not in name
            else _spread(o["accuracy"])
            for o in ones
        ]
        rows.append([name, *cells, " / ".join(f"{100 * o['share']['mean']:.1f}" for o in ones)])
    return (
        "Each change switched off: accuracy and (difference from the cascade, paired; not for the released algorithm, "
        "whose calls differ):\n\n"
        + markdown(["cascade", *(f"{float(share):.0%} of calls" for share in shares), "calls made, %"], rows)
        + "\nearly_exit changes what is computed, never an answer; drift shows where labels shift.\n"
    )


def _shift(result: dict[str, Any]) -> str:
    parts = ["All labels swapped half-way (gold and the LLM's), accuracy in %:\n"]
    for share, methods in result["shift"].items():
        rows = []
        for name, one in methods.items():
            windows = np.array(one["windows"])
            half = len(windows) // 2
            parts_shown = [windows[half - 3 : half], windows[half + 1 : half + 3], windows[-3:]]
            alarms = [a[0] - result["queries"] // 2 if a else None for a in one["alarms_at"]]
            cells = [f"{100 * part.mean():.1f}" for part in parts_shown]
            heard = ", ".join("none" if a is None else f"{a:+d}" for a in alarms)
            cells += [f"{100 * one['accuracy']['mean']:.1f}", f"{100 * one['share']['mean']:.1f}"]
            rows.append([name, *cells, heard])
        columns = [
            f"last {3 * WINDOW} before",
            f"{WINDOW} to {3 * WINDOW} after",
            f"last {3 * WINDOW}",
            "whole",
            "calls made, %",
        ]
        parts.append(
            f"{float(share):.0%} of LLM calls\n\n" + markdown(["method", *columns, "alarm, queries after"], rows)
        )
    return "\n".join(parts)


def _spread(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:.1f} ± {100 * value['half']:.1f}"


def _signed(value: dict[str, float]) -> str:
    return f"{100 * value['mean']:+.2f} ± {100 * value['half']:.2f}"
