"""The result as Markdown and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.assistant_router.collect import WEAK
from benchmarks.assistant_router.learn import STRONG_USD, Scored
from benchmarks.assistant_router.sets import STRONG, TRAINED
from benchmarks.stamp import one_line
from benchmarks.table import markdown
from serve_app import plots
from serve_app.data.dataset import Dataset
from serve_app.learning.metrics import cost_quality_curve, oracle_curve

SOURCES = {
    "everyday": "this repository's own (`benchmarks/assistant_router/everyday.txt`); large counted right on all",
    "gsm": "GSM8K, ZeroEval's recorded answers (WildEval/ZeroEval, Apache-2.0)",
    "math_l5": "MATH level 5, ZeroEval",
    "crux": "CRUXEval, ZeroEval",
    "mmlu_pro": "MMLU-Pro, its recorded answers (TIGER-AI-Lab/MMLU-Pro, Apache-2.0)",
    "trivia": "TriviaQA, recorded answers of rational-llm-cascades: test only",
    "mmlu": "MMLU, recorded answers of rational-llm-cascades: test only",
}
TITLES = {
    "folds": "Five folds, near-duplicates together",
    "unseen groups": "Kinds of question not trained on (whole families and sets left out)",
    "transfer:trivia": "Trained on all of it, tested on TriviaQA",
    "transfer:mmlu": "Trained on all of it, tested on MMLU",
}


def text(found: dict[str, Any]) -> str:
    """Tables and the sentences that explain them."""
    whole = found["all"]
    head = (
        f"# The router of the profile `assistant`\n\nsmall is {WEAK}, answering here, greedy; large is {STRONG}, from "
        f"recorded answers. {found['questions']:,} questions: small right on {whole['small']:.1%}, large on "
        f"{whole['large']:.1%}; small is as good as large on {whole['small_is_enough']:.1%}, so that an oracle would "
        f"call large on {whole['oracle_share']:.1%}.\n"
    )
    if found["answered"] < found["sampled"]:
        head += (
            f"\nOf {found['sampled']:,} sampled questions {found['answered']:,} had been answered, short ones of each "
            "set first: sets that the table shows small are cut there.\n"
        )
    parts = [head, _sets(found), _families(found)]
    parts += [_task(TITLES[name], kinds) for name, kinds in found["tasks"].items() if kinds]
    parts += [_points(found), _honesty(), f"{one_line(found['environment'])}, seed {found['seed']}\n"]
    return "\n".join(parts)


def card(found: dict[str, Any]) -> str:
    """The README of the artefact that ships."""
    at, whole, folds = found["shipped"], found["all"], found["tasks"]["folds"]
    unseen = found["tasks"]["unseen groups"]["complexity"]
    return (
        f"# Router `assistant`\n\nFor {WEAK} (small) and {STRONG} (large), the default of the profile `assistant`. A "
        "`complexity` router: logistic regression on what can be read off a query, and the history of similar ones. "
        "It holds weights, counts and hashes, no text of any question but single common words.\n\n"
        f"- Learned from {found['questions']:,} questions: small's own graded answers, large's recorded ones. "
        f"Sets: {', '.join(TRAINED)}; sources and licenses are in the result.\n"
        f"- small is right on {whole['small']:.1%} of them, large on {whole['large']:.1%}. Everyday questions have no "
        "recorded answer of large, which is counted right on all of them.\n"
        f"- On questions that it was not fitted on: APGR {_value(folds['complexity']['apgr'])} (random "
        f"{_value(folds['random']['apgr'])}), AUC {_value(folds['complexity']['auc'])}. On kinds of question that it "
        f"never met: APGR {_value(unseen['apgr'])}, AUC {_value(unseen['auc'])}{_against_chance(unseen['auc'])}.\n"
        f"- Threshold: the fewest calls of large that lose at most 2 % of its quality, {at['strong_share']:.1%} of "
        "these questions. A model of this size is right on few questions, so most queries go to large.\n\n"
        "Made by `python -m benchmarks.assistant_router --data DATA --ship`; full tables in "
        "`benchmarks/results/assistant_router.md`.\n"
    )


def _sets(found: dict[str, Any]) -> str:
    rows = [
        (
            name,
            "trained on" if name in TRAINED else "test only",
            one["queries"],
            f"{one['small']:.1%}",
            f"{one['large']:.1%}",
            SOURCES[name],
        )
        for name, one in found["sets"].items()
    ]
    return markdown(("set", "use", "questions", "small right", "large right", "source"), rows)


def _families(found: dict[str, Any]) -> str:
    ranked = sorted(found["families"].items(), key=lambda item: -item[1]["small"])
    rows = [(name.removeprefix("everyday:"), one["queries"], f"{one['small']:.0%}") for name, one in ranked]
    return "## Everyday questions by family\n\n" + markdown(("family", "questions", "small right"), rows)


def _task(title: str, kinds: dict[str, Any]) -> str:
    rows = [
        (kind, one["queries"], _value(one["apgr"]), _value(one["auc"]), _percent(one["cpt50"]), _percent(one["cpt80"]))
        for kind, one in sorted(kinds.items(), key=lambda item: -(item[1]["apgr"]["value"] or 0))
    ]
    oracle = next(iter(kinds.values()))["apgr_oracle"]
    rows.append(("oracle", "", f"{oracle:.3f}", "1", "", ""))
    head = ("router", "questions", "APGR [95 %]", "AUC [95 %]", "CPT(50 %)", "CPT(80 %)")
    return f"## {title}\n\n{markdown(head, rows)}"


def _points(found: dict[str, Any]) -> str:
    rows = [
        (p["target"], f"{p['threshold']:.3f}", f"{p['share']:.1%}", f"{p['quality']:.1%}", f"{p['drop']:.1%}")
        for p in found["points"]
    ]
    head = ("target", "threshold", "large-model calls", "right", "drop against always large")
    return f"## Operating points of `complexity`, on questions that it was not fitted on\n\n{markdown(head, rows)}"


def _honesty() -> str:
    return (
        "A model of 135 million parameters is right on few hard questions, so most of the quality is large's, and the "
        "default threshold sends most queries there. The mixture is made, not a sample of any traffic: with another "
        "share of everyday questions the share of large-model calls is another. Everyday questions have no recorded "
        "answers of large: it is counted right on all, which favors it. Grading reads a right answer out of the text, "
        f"word for word, so that small's figures are rough upper bounds for free text. Costs: large at {STRONG_USD} US "
        "dollars per million tokens, small at none. Intervals: bootstrap over questions.\n"
    )


def _value(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "–"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _against_chance(auc: dict[str, Any]) -> str:
    if auc["high"] is not None and auc["high"] < 0.5:
        return ", worse than chance: it says nothing of them"
    return "" if auc["low"] is not None and auc["low"] > 0.5 else ", no better than chance"


def _percent(value: dict[str, Any]) -> str:
    return "–" if value["value"] is None else f"{value['value']:.1%}"


def draw(dataset: Dataset, scored: Mapping[str, Scored], found: dict[str, Any], path: Path) -> None:
    """Right answers against the share of large-model calls."""
    weak, strong = dataset.weak.quality.mean(1), dataset.strong.quality.mean(1)
    figure, axes = plots.new_figure(1, 7.2, 4.6)
    best = oracle_curve(weak, strong)
    axes.plot(100 * best.share, 100 * best.quality, ":", color=plots.GREY, label="oracle (knows both answers)")
    for number, (kind, one) in enumerate(scored.items()):
        curve = cost_quality_curve(one.scores, weak, strong)
        axes.plot(100 * curve.share, 100 * curve.quality, color=plots.color(number), label=kind)
    chosen = next(p for p in found["points"] if p["target"] == "drop <= 0.02")
    plots.mark(axes, 0, (100 * chosen["share"], 100 * chosen["quality"]), "", color=plots.color(0))
    axes.set_xlabel("large-model calls, % of queries")
    axes.set_ylabel("right answers, %")
    axes.set_title(f"SmolLM2-135M and {STRONG}: {len(dataset):,} questions, five folds", fontsize=11)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    plots.caption(figure, f"{one_line(found['environment'])}; marker: the default threshold")
    plots.save(figure, path)
