"""`python -m benchmarks.task_adapters`: what LoRA adapters add to a small model, and at what cost.

python -m benchmarks.task_adapters                                        the lab's task adapters; a minute a task
python -m benchmarks.task_adapters --smollm2 FOLDER --data FOLDER         SmolLM2-135M-Instruct on ISEAR, trained too

The lab's models are measured on unseen queries of every size of a task, exact match, and the cost of a token grows with
a model's parameters, the adapter's included. SmolLM2's adapter is trained on 2,000 rows on the CPU (a killed run
resumes) and measured on rows that took no part in anything. A part that is not run keeps the figures of its last run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.process import BUILD, stop_in_order_on_sigterm
from benchmarks.stamp import environment
from benchmarks.task_adapters import isear, lab, smollm2
from benchmarks.task_adapters.report import draw, text
from serve_app.lab import adapters_dir

NAME = "task_adapters"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__.splitlines()[0])
    p.add_argument("--n", type=int, default=500, help="unseen queries of each task, balanced over its sizes")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--adapters", type=Path, default=adapters_dir(), help="folder of the lab's adapters")
    p.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct; without it that part is skipped")
    p.add_argument("--data", type=Path, help=f"folder with {isear.FILE}")
    p.add_argument("--work", type=Path, default=BUILD / NAME, help="for SmolLM2's adapter and its checkpoints")
    p.add_argument("--no-lab", action="store_true")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    args = p.parse_args(argv)
    if args.n < 50:
        p.error(f"--n {args.n}: give at least 50 queries, fewer say nothing")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure, and write JSON, tables and plot. 1 where an adapter misses what it is held to."""
    stop_in_order_on_sigterm()
    args = arguments(argv)
    measured: dict[str, Any] = {}
    if not args.no_lab:
        stamp = environment()
        measured["lab"] = lab.measure(args.adapters, args.n, args.seed, tell) | {"environment": stamp}
    why = skipped(args)
    if why is None:
        stamp = environment()
        measured["smollm2"] = smollm2.measure(args.smollm2, args.data, args.work, args.seed, tell) | {
            "environment": stamp
        }
    else:
        tell(f"SmolLM2 is skipped: {why}")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{NAME}.json"
    before = json.loads(file.read_text("utf-8")) if file.exists() else {}
    found = {name: kept for name in ("lab", "smollm2") if (kept := measured.get(name, before.get(name)))}
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / f"{NAME}.md").write_text(text(found, why), "utf-8")
    draw(found, args.out / f"{NAME}.png")
    print(text(found, why))
    return int(any(part["missed"] for part in found.values()))


def skipped(args: argparse.Namespace) -> str | None:
    """Why SmolLM2 is not measured in this run; None if it is."""
    if args.smollm2 is None or args.data is None:
        return "give --smollm2 and --data"
    if not (args.smollm2 / "config.json").is_file():
        return f"there is no model in {args.smollm2}"
    if not (args.data / isear.FILE).is_file():
        return f"there is no {args.data / isear.FILE}"
    return None


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
