"""`python -m benchmarks.hybrid_llm`: what r_det, r_prob and r_trans lose at a cost advantage, on three lab pairs.

python -m benchmarks.hybrid_llm                                          ask the lab's models, train, measure
python -m benchmarks.hybrid_llm --metric exact_match --train-layers 2    one metric, two layers fine-tuned
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.hybrid_llm import report as words
from benchmarks.hybrid_llm.figures import pair_figures
from benchmarks.hybrid_llm.plot import draw
from benchmarks.hybrid_llm.runs import METRICS, PAIRS, Bench, answers, by_metric
from benchmarks.process import BUILD
from benchmarks.stamp import environment
from serve_app.data.collection.lab import LabPlan


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.hybrid_llm", description=__doc__.splitlines()[0])
    p.add_argument("--n", type=int, default=6000, help="queries to learn from")
    p.add_argument("--measure", type=int, default=3000, help="queries to measure on, of the other half")
    p.add_argument("--samples", type=int, default=10, help="answers of each model to each query")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--metric", choices=[*METRICS, "both"], default="both")
    p.add_argument("--encoder", default="minilm", help="minilm, a Hugging Face folder, or small-from-scratch")
    p.add_argument("--train-layers", type=int, default=3, help="layers fine-tuned, from the end; 0 for all")
    p.add_argument("--epochs", type=int, default=6)
    p.add_argument("--learning-rate", type=float, default=3e-4)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--data", type=Path, default=BUILD / "hybrid_llm", help="answers and scores are kept here")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    args = p.parse_args(argv)
    if args.n < 100 or args.measure < 100:
        p.error("give at least 100 queries to learn from and to measure on, fewer say nothing")
    return args


def main(argv: list[str] | None = None) -> int:
    """Train, measure, write JSON, table and plot; 1 if r_prob or r_trans loses more than the limit."""
    import torch

    args = arguments(argv)
    torch.set_num_threads(args.threads)
    stamp = environment()
    args.data.mkdir(parents=True, exist_ok=True)
    plan = LabPlan(args.n, "learn", args.seed, samples=args.samples, temperature=1.0)
    learn = answers(args.data, plan, tell)
    measure = answers(args.data, replace(plan, n=args.measure, half="measure"), tell)
    params = {
        "seed": args.seed,
        "encoder": args.encoder,
        "train_layers": args.train_layers or None,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
    }
    bench = Bench(args.data, params, tell)
    metrics: dict[str, Any] = {}
    for metric in METRICS if args.metric == "both" else (args.metric,):
        ours, others = by_metric(learn, metric), by_metric(measure, metric)
        metrics[metric] = {}
        for small, large in PAIRS:
            pair = f"{small} to {large}"
            trained = bench.routers(ours.pair(small, large), others.pair(small, large), f"{metric}, {pair}")
            metrics[metric][pair] = pair_figures(trained, others.pair(small, large), args.seed)
    data = {
        "samples": args.samples,
        **{f"{name}": len(part) for name, part in (("learn", learn), ("measure", measure))},
        **{f"{name}_distinct": part.about["distinct"] for name, part in (("learn", learn), ("measure", measure))},
    }
    found = {"environment": stamp, "seed": args.seed, "data": data, "params": params, "metrics": metrics}
    found["verdict"] = words.verdict(found) if "exact_match" in metrics else {}
    write(args.out, found)
    return 0 if all(v["kept"] for v in found["verdict"].values()) else 1


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def write(out: Path, found: dict[str, Any]) -> None:
    """`hybrid_llm.json`, `.md` and `.png`; of one metric alone, its name goes into theirs."""
    metrics = list(found["metrics"])
    name = "hybrid_llm" if len(metrics) > 1 else f"hybrid_llm-{metrics[0]}"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (out / f"{name}.md").write_text(words.text(found), "utf-8")
    draw(found, out / f"{name}.png")
    print(words.text(found))


if __name__ == "__main__":
    sys.exit(main())
