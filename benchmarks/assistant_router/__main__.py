"""What a router between SmolLM2-135M-Instruct and a recorded strong model can learn, and the one that ships.

    python -m benchmarks.assistant_router --data FOLDER [--model FOLDER] [--ship]

`--data` is a folder with `multi/` and `cascade/`: recorded answers of many models to public questions, which are not
part of this repository (see the result for their sources). SmolLM2 answers them here, by the engine that serves it:
about fifteen minutes on one quiet core; a killed run resumes. `--ship` writes the artefact of the profile `assistant`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.assistant_router.collect import collect, known
from benchmarks.assistant_router.learn import MOST_DROP, Scored, crossed, dataset_of, register, transferred
from benchmarks.assistant_router.report import card, draw, text
from benchmarks.assistant_router.sets import TRAINED, Question, questions
from benchmarks.stamp import environment
from serve_app.data.dataset import Dataset
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.engines.packaged.catalogue import PREFIX, find
from serve_app.engines.packaged.fetch import ensure
from serve_app.errors import JethroError
from serve_app.routing.registry import artefacts_dir
from serve_app.training.evaluation import interval_json

PACKAGED = "package:smollm2-135m-instruct"
KINDS = ("complexity", "random")
SHIPPED = "complexity"
_SHARES = (0.5, 0.7, 0.8, 0.9)
_FIGURES = ("apgr", "auc", "cpt50", "cpt80", "calibration_error")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.assistant_router", description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True, help="folder with multi/ and cascade/")
    p.add_argument("--model", default=PACKAGED, help="the small model: package:NAME or a folder")
    p.add_argument("--answers", type=Path, default=Path("var/assistant_router/answers.jsonl"), help="kept answers")
    p.add_argument("--kinds", nargs="+", default=list(KINDS), help="kinds of router; some need the sentence encoder")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--no-collect", action="store_true", help="use the kept answers alone, as many as there are")
    p.add_argument("--ship", action="store_true", help="write the artefact of the router that ships")
    p.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Collect, grade, fit, score, write JSON, table and plot."""
    args, stamp = arguments(argv), environment()
    stamp["command"] = "--data DATA" + " --ship" * args.ship
    try:
        chosen = questions(args.data, args.seed)
        if not args.no_collect:
            packaged = args.model.startswith(PREFIX)
            model = ensure(find(args.model, "--model"), tell) if packaged else Path(args.model)
            collect(chosen, model, args.answers, args.threads, tell)
        answers = known(args.answers)
        result, scored, dataset = measured(chosen, answers, args)
        if args.ship:
            result["shipped"] = register(
                dataset, SHIPPED, scored[SHIPPED].scores, artefacts_dir() / "assistant", args.seed, tell
            )
    except JethroError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    result["environment"] = stamp
    if args.ship:
        (artefacts_dir() / "assistant" / "README.md").write_text(card(result), "utf-8")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "assistant_router.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (args.out / "assistant_router.md").write_text(text(result), "utf-8")
    draw(dataset, scored, result, args.out / "assistant_router.png")
    print(text(result))
    return 0


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def measured(
    chosen: Sequence[Question], answers: dict[str, Any], args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Scored], Dataset]:
    """All figures, the cross-fitted scores by kind, and the dataset that the router learns from."""
    dataset = dataset_of(chosen, answers, TRAINED)
    others = {name: dataset_of(chosen, answers, (name,)) for name in sorted({q.set for q in chosen} - set(TRAINED))}
    scored: dict[str, Scored] = {}
    tasks: dict[str, dict[str, Any]] = {"folds": {}, "unseen groups": {}, **{f"transfer:{n}": {} for n in others}}
    for kind in args.kinds:
        tell(f"fitting {kind}")
        scored[kind] = crossed(dataset, kind, args.seed, by_group=False)
        tasks["folds"][kind] = figures(scored[kind])
        tasks["unseen groups"][kind] = figures(crossed(dataset, kind, args.seed, by_group=True))
        for name, test in others.items():
            tasks[f"transfer:{name}"][kind] = figures(transferred(dataset, test, kind, args.seed))
    sets = {name: about(dataset_of(chosen, answers, (name,))) for name in sorted({q.set for q in chosen})}
    families = {
        group: about(dataset.take(np.flatnonzero(np.array(dataset.groups) == group)))
        for group in sorted(set(dataset.groups))
        if group.startswith("everyday:")
    }
    calibration = Calibration.of(scored[SHIPPED].scores, dataset)
    points = [Threshold.for_share(calibration, share) for share in _SHARES]
    points += [Threshold.for_drop(calibration, drop) for drop in (0.05, MOST_DROP, 0.01)]
    found = {
        "seed": args.seed,
        "questions": len(dataset),
        "sampled": len(chosen),
        "answered": sum(q.id in answers for q in chosen),
        "all": about(dataset),
        "sets": sets,
        "families": families,
        "tasks": tasks,
        "points": [
            {"target": t.target, "share": t.share, "quality": t.quality, "drop": t.drop, "threshold": t.value}
            for t in sorted(points, key=lambda t: t.share)
        ],
    }
    return found, scored, dataset


def figures(scored: Scored) -> dict[str, Any]:
    """Each figure with its interval, and the oracle's APGR."""
    found = {name: interval_json(scored.evaluation.figures[name]) for name in _FIGURES}
    return found | {"apgr_oracle": scored.evaluation.oracle_apgr, "queries": scored.evaluation.queries}


def about(dataset: Dataset) -> dict[str, Any]:
    """What there is to gain."""
    weak, strong = dataset.weak.quality.mean(1), dataset.strong.quality.mean(1)
    return {
        "queries": len(dataset),
        "small": float(weak.mean()),
        "large": float(strong.mean()),
        "small_is_enough": float((weak >= strong).mean()),
        "oracle_share": float((strong > weak).mean()),
        "tokens": float(dataset.weak.completion_tokens.mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
