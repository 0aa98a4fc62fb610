"""`python -m benchmarks.recorded_routing`: every kind of router on recorded answers of real models, cross-validated.

python -m benchmarks.recorded_routing --data routellm/                    all files of a folder
python -m benchmarks.recorded_routing --data mine.jsonl --kinds stacked   one file of the same columns, one kind

A row has `prompt` (or `turns`), `small_correct` and `large_correct` (or `_score`), and if it likes `subject`,
`benchmark`, `contaminated`. Scores are kept as they arrive: the same command resumes after a kill.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.process import BUILD
from benchmarks.recorded_routing.crossed import BASELINE, Bench, Crossed
from benchmarks.recorded_routing.figures import about, against_baseline, inverted_groups, measured
from benchmarks.recorded_routing.plot import draw
from benchmarks.recorded_routing.report import text
from benchmarks.recorded_routing.sets import LEAST, Task, load_sets, tasks
from benchmarks.stamp import environment, one_line
from serve_app.errors import ConfigError
from serve_app.learning.metrics import average_pgr, cost_quality_curve

KINDS = ("stacked", "estimator", "knn", "complexity", "sw_ranking", "mf", "random")
BARS = {("gsm8k", "random folds"): 0.67, ("mmlu_dev", "random folds"): 0.62, ("mmlu_dev", "unseen groups"): 0.58}
"""APGR that the best router is to reach, by set and way of measuring."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.recorded_routing", description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, nargs="+", required=True, help="files of recorded outcomes, or their folder")
    p.add_argument("--kinds", nargs="+", default=list(KINDS), help="kinds of router; fine-tuned ones take hours")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--seed", type=int, default=0, help="draws the folds")
    p.add_argument("--repeats", type=int, default=1, help="seeds of the folds; the bar is held to their mean")
    p.add_argument("--least", type=int, default=LEAST, help="queries below which a set is scored by transfer")
    p.add_argument("--rounds", type=int, default=1000, help="bootstrap resamples")
    p.add_argument("--params", type=json.loads, default={}, help='constructor arguments, {"KIND": {"NAME": VALUE}}')
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--keep", type=Path, default=BUILD / "recorded_routing", help="scores are kept here")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Fit, score, write JSON, table and plot; 1 if a bar is missed."""
    import torch

    args = arguments(argv)
    torch.set_num_threads(args.threads)
    stamp = environment()
    stamp["command"] = " ".join(Path(word).name for word in (sys.argv[1:] if argv is None else argv))
    try:
        sets = load_sets(args.data)
        planned = {task.title: task for task in tasks(sets, args.folds, args.seed, args.least)}
        if not planned:
            raise ConfigError(f"no set has {args.least} queries to learn from; give more data or a smaller --least")
        bench = Bench(args.keep, sets, args.params, tell)
        scores, found = _all(bench, planned, args)
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    described = {name: about(d) | {"inverted_groups": inverted_groups(d)} for name, d in sets.items()}
    result = {"environment": stamp, "seed": args.seed, "folds": args.folds, "sets": described, "tasks": found}
    write(args.out, result, planned, scores)
    return 0 if all(task["bar"]["reached"] for task in found if "bar" in task) else 1


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def write(out: Path, result: dict[str, Any], planned: dict[str, Task], scores: dict[str, dict[str, Crossed]]) -> None:
    """`recorded_routing.json`, `.md` and `.png`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "recorded_routing.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (out / "recorded_routing.md").write_text(text(result), "utf-8")
    caption = f"{one_line(result['environment'])}, seed {result['seed']}"
    draw(planned, scores, caption, out / "recorded_routing.png")
    print(text(result))


def _all(
    bench: Bench, planned: dict[str, Task], args: argparse.Namespace
) -> tuple[dict[str, dict[str, Crossed]], list[dict[str, Any]]]:
    """Each task's scores by kind, and its figures."""
    scores: dict[str, dict[str, Crossed]] = {}
    found = []
    for title, task in planned.items():
        scores[title] = {kind: bench.scores(task, kind) for kind in dict.fromkeys((*args.kinds, BASELINE))}
        kinds = {kind: measured(task, one, args.rounds) for kind, one in scores[title].items()}
        against_baseline(kinds)
        entry: dict[str, Any] = {"title": title, "set": task.name, "how": task.how, "train": list(task.train)}
        entry["kinds"] = {kind: one.figures for kind, one in kinds.items()}
        best = _best(entry["kinds"])
        tell(f"{title}: best is {best}, APGR {kinds[best].figures['apgr']['value']:.3f}")
        found.append(entry)
    for entry in found:
        if args.repeats > 1:
            entry["repeated"] = _repeated(bench, planned[entry["title"]], tuple(entry["kinds"]), args)
        if bar := held_to_bar(entry):
            entry["bar"] = bar
    return scores, found


def held_to_bar(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The best router's APGR against the bar of its set: the mean over the seeds of the folds where there are several.

    One seed's value would be that of the luckiest folds. None for a set without a bar.
    """
    bar, best = BARS.get((entry["set"], entry["how"])), _best(entry["kinds"])
    if bar is None:
        return None
    values = entry.get("repeated", {}).get(best) or [entry["kinds"][best]["apgr"]["value"]]
    value = sum(values) / len(values)
    return {"apgr": bar, "best": best, "value": value, "seeds": len(values), "reached": value >= bar}


def _best(kinds: dict[str, dict[str, Any]]) -> str:
    """The router of the highest APGR, the baseline left out."""
    apgr = {kind: float(figures["apgr"]["value"]) for kind, figures in kinds.items() if kind != BASELINE}
    return max(apgr, key=lambda kind: apgr[kind])


def _repeated(bench: Bench, task: Task, kinds: tuple[str, ...], args: argparse.Namespace) -> dict[str, list[float]]:
    """APGR of each kind on folds of several seeds, the first one's included; none for transfer, which has no folds."""
    if task.train:
        return {}
    weak, strong = task.dataset.weak.quality.mean(1), task.dataset.strong.quality.mean(1)
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(args.seed, args.seed + args.repeats):
        again = next(t for t in tasks({task.name: task.dataset}, args.folds, seed, 0) if t.how == task.how)
        for kind, values in found.items():
            scores = bench.scores(again, kind).scores
            values.append(average_pgr(cost_quality_curve(scores, weak, strong)))
    return found


if __name__ == "__main__":
    sys.exit(main())
