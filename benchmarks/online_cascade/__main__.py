"""`python -m benchmarks.online_cascade`: online cascade learning on a recorded stream, and what it must beat.

python -m benchmarks.online_cascade --data isear.jsonl.gz --expert gpt35 --names joy sadness ... disgust
python -m benchmarks.online_cascade --data mine.jsonl --expert llm --shift

Any file of rows with `text`, `label` and a column of recorded LLM labels. Half of it is the stream, in another order
for each seed; the LLM labels of the other half teach the distilled students. Replays are kept as they arrive: the same
command resumes after a kill.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.online_cascade.figures import paired, summary
from benchmarks.online_cascade.methods import ABLATED, CASCADE, LLM_ALONE, METHODS, NO_BASELINES, PLAIN, without
from benchmarks.online_cascade.plan import Bench, nearest
from benchmarks.online_cascade.plot import draw
from benchmarks.online_cascade.report import text
from benchmarks.online_cascade.stream import load, remember_vectors
from benchmarks.process import BUILD
from benchmarks.stamp import environment
from serve_app.errors import ConfigError
from serve_app.streams.online.base import StreamSpec

BARS = {("isear", 0.2): 0.54, ("isear", 0.4): 0.62}
"""Mean accuracy that the cascade is to reach, by stream and share of LLM calls."""
ABLATED_AT = (0.2, 0.4)
SHIFTED_AT = (0.2, 0.4)
ALL_QUERIES = (LLM_ALONE,)
"""Methods without a budget."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.online_cascade", description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True, help="JSON lines of text, label and LLM labels; may be gzipped")
    p.add_argument("--expert", required=True, help="the column of the LLM's labels")
    p.add_argument("--names", nargs="+", default=[], help="words of numbered labels, in their order")
    p.add_argument("--seeds", type=int, default=5, help="seeds of the stream's order and of the learner")
    p.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.6])
    p.add_argument("--audit-share", type=float, default=0.005)
    p.add_argument("--params", type=json.loads, default={}, help='hyper-parameters of the learner, {"NAME": VALUE}')
    p.add_argument("--half", choices=("stream", "other"), default="stream", help="other: the half for tuning")
    p.add_argument("--shift", action="store_true", help="also with all labels swapped half-way")
    p.add_argument("--ablate", action="store_true", help="also with each change switched off")
    p.add_argument("--keep", type=Path, default=BUILD / "online_cascade", help="replays are kept here")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Replay, write JSON, table and plot; 1 if a bar is missed or a baseline is above the cascade at a bar."""
    args = arguments(argv)
    stamp = environment()
    stamp["command"] = " ".join(Path(word).name for word in (sys.argv[1:] if argv is None else argv))
    try:
        result = measure(args)
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    result["environment"] = stamp
    write(args.out, result)
    return 0 if all(bar["reached"] and bar["above_all"] for bar in result["bars"]) else 1


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, JSON-ready."""
    data = load(args.data, args.expert, tuple(args.names))
    stream, other = data.halves() if args.half == "stream" else reversed(data.halves())
    spec = StreamSpec(data.name, data.labels, "", audit_share=args.audit_share, params=args.params)
    bench = Bench(stream, other, spec, range(args.seeds), args.keep, tell)
    remember_vectors((*stream.texts, *other.texts), args.keep, tell)
    budgets: dict[str, Any] = {}
    equal: dict[str, Any] = {}
    swept = bench.released()
    for share in args.shares:
        runs = {name: bench.runs(name, replay, share) for name, replay in METHODS.items() if name not in ALL_QUERIES}
        runs[PLAIN] = nearest(swept, share)
        equal[f"{share:g}"] = equal_calls(bench, runs[PLAIN])
        budgets[f"{share:g}"] = {
            name: summary(one) | {"against": paired(runs[CASCADE], one)} for name, one in runs.items()
        }
    result: dict[str, Any] = {
        "data": data.name,
        "expert": args.expert,
        "labels": list(data.labels),
        "queries": len(stream),
        "half": args.half,
        "seeds": args.seeds,
        "audit_share": args.audit_share,
        "llm": summary(bench.runs(LLM_ALONE, METHODS[LLM_ALONE], 1.0)),
        "budgets": budgets,
        "equal_calls": equal,
        "bars": _bars(data.name, budgets),
    }
    if args.ablate:
        result["ablation"] = {f"{share:g}": _ablated(bench, share) for share in ABLATED_AT}
    if args.shift:
        result["shift"] = {f"{share:g}": _shifted(bench, share) for share in SHIFTED_AT}
    return result


def equal_calls(bench: Bench, released: list[dict[str, Any]]) -> dict[str, Any]:
    """The released algorithm's runs against the cascade given as many LLM calls, seed by seed.

    The algorithm has no budget, so the calls that it makes at its nearest price differ from those of the other methods.
    """
    ours = bench.matched(CASCADE, METHODS[CASCADE], released)
    return {PLAIN: summary(released), CASCADE: summary(ours), "against": paired(ours, released)}


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def write(out: Path, result: dict[str, Any]) -> None:
    """`online_cascade.json`, `.md` and `.png`; other streams than ISEAR under their own names."""
    out.mkdir(parents=True, exist_ok=True)
    name = "online_cascade" if result["data"] == "isear" else f"online_cascade_{result['data']}"
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (out / f"{name}.md").write_text(text(result), "utf-8")
    draw(result, out / f"{name}.png")
    print(text(result))


def _bars(name: str, budgets: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for (data, share), bar in BARS.items():
        methods = budgets.get(f"{share:g}")
        if data != name or methods is None:
            continue
        value = methods[CASCADE]["accuracy"]["mean"]
        baselines = [m for m in methods if m not in NO_BASELINES]
        best = max(baselines, key=lambda m: methods[m]["accuracy"]["mean"])
        within = [m for m in baselines if methods[m]["against"]["mean"] <= methods[m]["against"]["half"]]
        above = value > methods[best]["accuracy"]["mean"]
        found.append({"share": share, "bar": bar, "value": value, "reached": value >= bar, "best_baseline": best})
        found[-1] |= {"above_all": above, "against_best": methods[best]["against"]}
        found[-1] |= {"baselines": len(baselines), "within_interval": within}
    return found


def _ablated(bench: Bench, share: float) -> dict[str, Any]:
    """The cascade with each change switched off, and all of them."""
    whole = bench.runs(CASCADE, METHODS[CASCADE], share)
    rows = {name: bench.runs(name, replay, share) for name, replay in ABLATED.items()}
    rows["without any: the released algorithm"] = nearest(bench.released(), share)
    return {name: summary(runs) | {"against": paired(runs, whole)} for name, runs in rows.items()} | {
        CASCADE: summary(whole)
    }


def _shifted(bench: Bench, share: float) -> dict[str, Any]:
    """Labels swapped half-way: the cascade, the cascade without its watch for drift, the released algorithm."""
    replays = {
        CASCADE: bench.runs(CASCADE, METHODS[CASCADE], share, shift=True),
        "without drift": bench.runs("without drift", without("drift"), share, shift=True),
        PLAIN: nearest(bench.released(shift=True), share),
    }
    found = {}
    for name, runs in replays.items():
        found[name] = summary(runs) | {"alarms_at": [run.get("alarms_at", []) for run in runs]}
    return found


if __name__ == "__main__":
    sys.exit(main())
