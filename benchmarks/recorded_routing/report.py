"""The result as Markdown."""

from typing import Any

from benchmarks.recorded_routing.crossed import BASELINE
from benchmarks.recorded_routing.published import CONFIRMED, published
from benchmarks.stamp import one_line
from benchmarks.table import markdown

HEAD = ("router", "APGR [95 %]", "deciles", "CPT(50 %)", "CPT(80 %)", "AUC", "calibration error", "above baseline")
CHOSEN_ON = {("gsm8k", "random folds"), ("mmlu_dev", "random folds"), ("mmlu_dev", "unseen groups")}
READ_BY_HAND = {
    ("mmlu_dev", "world_religions"): "of the 14 questions that only the small model has right, about half hang on a "
    "debatable key (hijab, Arhats, liberation in Sikhism), the rest ask plain facts (ajiva, the Gemara, Digambara) "
    "that one would expect a large model to know: some may be faults of extraction, none shows that it is one",
    ("mmlu_dev", "college_chemistry"): "questions that only one model has right are mostly magnetic resonance and "
    "equilibrium calculations, answered without working: both models guess, nothing points to extraction",
}


def text(found: dict[str, Any]) -> str:
    """Tables and the sentences that explain them."""
    parts = [_task(task, found) for task in found["tasks"]]
    parts += [_groups(name, one["inverted_groups"]) for name, one in found["sets"].items() if one["inverted_groups"]]
    parts.append(
        "Every score is by a router that saw neither the query nor a near-duplicate of it (transfer: no query of the "
        "set; near-duplicates across sets are not looked for). Intervals: bootstrap over queries, routers and folds "
        "as they are. `deciles`: APGR as RouteLLM computes it, at ten thresholds. `above baseline`: APGR less that of "
        f"{BASELINE} on sentence vectors, on the same resamples. RouteLLM's rows are published figures for the same "
        "two models and benchmarks (all 57 subjects of MMLU) by routers trained on Chatbot Arena battles, NOT on these "
        "data: context, not a race. They were taken down from memory of the paper; those marked ✓ agree with the plots "
        "in the authors' repository, the others were not checked against a copy.\n"
    )
    if any((task["set"], task["how"]) in CHOSEN_ON for task in found["tasks"]):
        parts.append(
            "What `stacked` reads and how it weighs (layers, surface features, loss weight) was chosen by "
            "cross-validation on gsm8k and mmlu_dev, so its figures there flatter it: among the last variants by up "
            "to 0.01. Where folds of several seeds are given, their mean is the figure to quote: the table shows one "
            "seed, which may be a lucky one. MT-Bench took no part in any choice; there other routers are ahead of "
            "`stacked`.\n"
        )
    parts.append(f"{one_line(found['environment'])}, seed {found['seed']}\n")
    return "\n".join(parts)


def _task(task: dict[str, Any], found: dict[str, Any]) -> str:
    about = found["sets"][task["set"]]
    order = sorted(task["kinds"].items(), key=lambda item: -item[1]["apgr"]["value"])
    rows = [_row(kind, one) for kind, one in order]
    rows.append(("oracle", f"{about['apgr_oracle']:.3f}", *["–"] * 6))
    rows += [_published(kind, values, about["benchmark"]) for kind, values in published(about["benchmark"]).items()]
    head = (
        f"### {task['title']}\n\n{about['queries']:,} queries, small {_mean(about['small'])}, large "
        f"{_mean(about['large'])}, large better on {about['large_better']:.1%}, small on {about['small_better']:.1%}"
    )
    lines = [f"{head}.\n", markdown(HEAD, rows)]
    repeated = sorted(task.get("repeated", {}).items(), key=lambda item: -sum(item[1]) / len(item[1]))
    if repeated:
        lines.append("The table is of one seed of the folds. Mean APGR over seeds, and each:\n")
        lines += [_over_seeds(kind, values) for kind, values in repeated]
        lines.append("")
    if "bar" in task:
        bar = task["bar"]
        over = f"mean over {bar['seeds']} seeds " if bar["seeds"] > 1 else ""
        lines.append(f"Bar {bar['apgr']}: best router {bar['best']}, {over}{bar['value']:.3f}, {_verdict(bar)}.\n")
    return "\n".join(lines)


def _over_seeds(kind: str, values: list[float]) -> str:
    return f"- {kind}: {sum(values) / len(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})"


def _row(kind: str, one: dict[str, Any]) -> tuple[str, ...]:
    gained = one.get("apgr_above_baseline")
    return (
        kind,
        _interval(one["apgr"]),
        f"{one['apgr_routellm_deciles']:.3f}",
        _interval(one["cpt50"], 100, 1),
        _interval(one["cpt80"], 100, 1),
        _interval(one["auc"]),
        f"{one['calibration_error']['value']:.3f}",
        "–" if gained is None else _interval(gained),
    )


def _published(kind: str, values: tuple[float, float, float], benchmark: str) -> tuple[str, ...]:
    marks = [" ✓" if (benchmark, kind, figure) in CONFIRMED else "" for figure in ("apgr", "cpt50", "cpt80")]
    digits = (3, 1, 1)
    apgr, cpt50, cpt80 = (f"{v:.{d}f}{mark}" for v, d, mark in zip(values, digits, marks, strict=True))
    return f"RouteLLM {kind} (published)", "–", apgr, cpt50, cpt80, "–", "–", "–"


def _groups(name: str, groups: list[dict[str, Any]]) -> str:
    rows = [
        (g["group"], g["queries"], _mean(g["small"]), _mean(g["large"]), g["large_better"], g["small_better"], g["p"])
        for g in groups
    ]
    head = ("group", "queries", "small", "large", "only large better", "only small better", "p (sign test)")
    notes = [f"{g['group']}: {READ_BY_HAND[name, g['group']]}." for g in groups if (name, g["group"]) in READ_BY_HAND]
    return (
        f"### {name}: groups in which the large model is the worse one\n\n{markdown(head, rows)}\n"
        "A large p says that so uneven a split is what chance gives; small p are to be expected where there are many "
        "groups. They stay in the data. " + " ".join(notes) + "\n"
    )


def _interval(value: dict[str, Any], scale: float = 1.0, digits: int = 3) -> str:
    if value["value"] is None:
        return "–"
    shown = f"{scale * value['value']:.{digits}f}"
    if value["low"] is None or value["high"] is None:
        return shown
    return f"{shown} [{scale * value['low']:.{digits}f}, {scale * value['high']:.{digits}f}]"


def _mean(quality: float) -> str:
    return f"{100 * quality:.1f} %" if quality <= 1 else f"{quality:.2f}"


def _verdict(bar: dict[str, Any]) -> str:
    return "reached" if bar["reached"] else "missed"
