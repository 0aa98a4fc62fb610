"""Results as Markdown: the paper's table with ours above it, and what they say."""

from collections.abc import Sequence
from typing import Any

from benchmarks.hybrid_llm.paper import ADVANTAGES, PAPER
from benchmarks.hybrid_llm.runs import EXACT, METRICS
from benchmarks.stamp import one_line
from benchmarks.table import markdown

NAMES = {"exact_match": "exact match", "edit_similarity": "partial credit (1 - edit distance / length)"}
GAPS = ("small gap", "middle gap", "large gap")
LIMIT = 0.01
"""What r_prob and r_trans may lose on small to large at the largest cost advantage."""


def text(found: dict[str, Any]) -> str:
    """The whole report."""
    parts = [_setting(found)]
    for metric in METRICS:
        if metric in found["metrics"]:
            parts += [f"### By {NAMES[metric]}\n", _table(found["metrics"][metric]), _words(found["metrics"][metric])]
    if found["verdict"]:
        parts.append(_target(found))
    parts += ["### The paper's figures, for form\n", _paper(), f"{one_line(found['environment'])}\n"]
    return "\n".join(parts)


def in_order(pairs: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Name, gap and figures of each pair, the smallest gap first."""
    ranked = sorted(pairs.items(), key=lambda pair: pair[1]["quality"]["gap"])
    return [(name, gap, figures) for (name, figures), gap in zip(ranked, GAPS, strict=True)]


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """Whether the limit is kept by exact match: value, interval and answer for both routers."""
    routers = found["metrics"][EXACT]["small to large"]["routers"]
    return {
        name: {
            "drop": routers[name]["drop"][-1],
            "interval_95": routers[name]["drop_interval_95"][-1],
            "kept": routers[name]["drop"][-1] <= LIMIT,
        }
        for name in ("r_prob", "r_trans")
    }


def _setting(found: dict[str, Any]) -> str:
    data, params = found["data"], found["params"]
    layers = "all layers" if params["train_layers"] is None else f"the last {params['train_layers']} layers"
    return (
        f"Performance drop in % against always-large, at a cost advantage (share of queries answered by the small "
        f"model) of 10, 20 and 40 %. Lab models, {data['samples']} answers at temperature 1 of each model to each "
        f"query; trained on {data['learn']:,} queries ({data['learn_distinct']:,} distinct), measured on "
        f"{data['measure']:,} others ({data['measure_distinct']:,} distinct), unseen by the models. Encoder "
        f"{params['encoder']}, {layers} fine-tuned, at most {params['epochs']} epochs. Intervals: 95 %, bootstrap "
        f"over distinct queries. `complexity` is the product's feature router on the same data; the oracle knows each "
        f"query's mean quality under both models.\n"
    )


def _table(pairs: dict[str, Any]) -> str:
    rows: list[Sequence[object]] = []
    for name, gap, figures in in_order(pairs):
        quality = figures["quality"]
        heading = f"{name} ({gap}: {100 * quality['small']:.1f} to {100 * quality['large']:.1f} %)"
        for router, values in figures["routers"].items():
            cells = [
                f"{100 * drop:.2f} ({100 * low:.2f} to {100 * high:.2f})"
                for drop, (low, high) in zip(values["drop"], values["drop_interval_95"], strict=True)
            ]
            rows.append((heading, router, *cells, f"{values['relaxation']:.2f}" if router == "r_trans" else ""))
            heading = ""
        for other in ("random", "oracle"):
            cells = [f"{100 * drop:.2f}" for drop in figures[other]["drop"]]
            rows.append(("", other, *cells, ""))
    return markdown(("pair", "router", *(f"{100 * a:.0f} %" for a in ADVANTAGES), "t*"), rows)


def _words(pairs: dict[str, Any]) -> str:
    lines: list[str] = []
    ahead: dict[str, list[float]] = {}
    for name, gap, figures in in_order(pairs):
        label = figures["routers"]["r_prob"]["mean_label"]
        if figures["routers"]["r_trans"]["note"]:
            said = "t* is 0, nothing spreads the labels more, so r_trans is r_prob"
        else:
            differences = figures["trans_minus_prob"]
            said = "drop of r_trans less that of r_prob, in points: " + "; ".join(map(_difference, differences))
            ahead[gap] = [d["cost_advantage"] for d in differences if d["high"] < 0]
        lines.append(f"- {name} ({gap}; small is good enough with {100 * label:.0f} %): {said}.")
    lines.append(f"- The paper's effect, r_trans ahead where the gap is large, {_effect(ahead.get(GAPS[-1]))}.")
    return "\n".join(lines) + "\n"


def _effect(ahead: list[float] | None) -> str:
    if ahead is None:
        return "cannot show: the two are one router"
    if not ahead:
        return "does not show"
    where = " and ".join(f"{100 * a:.0f} %" for a in ahead)
    return f"shows at {where} cost advantage and not elsewhere (60 % was added once the curves had been seen)"


def _difference(difference: dict[str, float]) -> str:
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    said = "ahead" if high < 0 else "behind" if low > 0 else "no difference that the data can tell"
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f}) at {100 * difference['cost_advantage']:.0f} %, {said}"


def _target(found: dict[str, Any]) -> str:
    said = [
        f"{name} loses {100 * v['drop']:.2f} % ({100 * v['interval_95'][0]:.2f} to {100 * v['interval_95'][1]:.2f})"
        for name, v in found["verdict"].items()
    ]
    kept = all(v["kept"] for v in found["verdict"].values())
    return (
        f"Small to large at 40 % cost advantage, exact match: {' and '.join(said)}; the limit is {100 * LIMIT:.0f} %: "
        f"{'kept' if kept else 'NOT kept'}.\n"
    )


def _paper() -> str:
    rows = []
    for pair, routers in PAPER.items():
        for i, (router, figures) in enumerate(routers.items()):
            rows.append((pair if i == 0 else "", router, *(f"{x:.1f}" for x in figures)))
    table = markdown(("pair", "router", *(f"{100 * a:.0f} %" for a in ADVANTAGES)), rows)
    return (
        f"{table}\nDing et al. 2024, arXiv 2404.14618: drop in % of BART score on MixInstruct, DeBERTa-v3-large. "
        f"Recalled from the paper, not read again; other models, data and metric, so only the form compares.\n"
    )
