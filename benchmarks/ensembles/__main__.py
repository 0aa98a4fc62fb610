"""`python -m benchmarks.ensembles --data FOLDER`: fitted ensembles against an untuned cascade on recorded answers.

python -m benchmarks.ensembles --data multi/                   five settings, routing and cascade routing next to them
python -m benchmarks.ensembles --data multi/ --only CRUX       one setting
python -m benchmarks.ensembles --data multi/ --no-routing      ensembles only, without reading prompts by an encoder

FOLDER holds mmlu_pro, zeroeval_gsm, zeroeval_math_l5 and zeroeval_crux as .jsonl.gz: a row has prompt, options if there
are some, and models, of each [answer, right, characters]. The cascade's figures on whole files are checked first.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ensembles.methods import CURVE, Routed, embedded, fitted, halves, routed
from benchmarks.ensembles.report import PART, draw, reached, summary, text
from benchmarks.ensembles.settings import SETTINGS, Loaded, Setting, load
from benchmarks.stamp import environment, one_line
from serve_app.errors import ConfigError

THREE, CHEAP = "three", "with cheap members"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.ensembles", description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True, help="folder of the recorded answers")
    p.add_argument("--only", help="one setting, by its name")
    p.add_argument("--splits", type=int, default=5)
    p.add_argument("--seed", type=int, default=0, help="of the first split")
    p.add_argument("--cheap", type=int, default=4, help="further members at most")
    p.add_argument("--no-routing", action="store_true", help="leave routing and cascade routing out")
    p.add_argument("--routed", type=int, help="splits on which routing is fitted; default all")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Fit, measure, write JSON, table and plot; 1 if fewer than four of five settings are reached, 2 on a mistake."""
    args = arguments(argv)
    stamp = environment()
    stamp["command"] = " ".join(Path(word).name for word in (sys.argv[1:] if argv is None else argv))
    chosen = [setting for setting in SETTINGS if args.only in (None, setting.name)]
    try:
        if not chosen:
            raise ConfigError(f"no setting {args.only!r}: give one of {', '.join(s.name for s in SETTINGS)}")
        found = _all_measured(chosen, args)
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    verdict = {line: [s["name"] for s in found if any(s["lines"][line]["reached"].values())] for line in (THREE, CHEAP)}
    result = {
        "environment": stamp,
        "seed": args.seed,
        "splits": args.splits,
        "routed_splits": args.routed,
        "settings": found,
        "verdict": verdict,
    }
    (args.out / "ensembles.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (args.out / "ensembles.md").write_text(text(result), "utf-8")
    draw(found, f"{one_line(stamp)}, seed {args.seed}", args.out / "ensembles.png")
    print(text(result))
    return int(len(verdict[CHEAP]) < min(4, len(found)))


def _all_measured(chosen: Sequence[Setting], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each setting; each is kept in a file until all are done, so that a run that was stopped resumes after it."""
    args.out.mkdir(parents=True, exist_ok=True)
    parts = args.out / f"ensembles.{args.seed}.{args.splits}.part.json"
    kept: dict[str, Any] = json.loads(parts.read_text("utf-8")) if parts.is_file() else {}
    for setting in chosen:
        if setting.name not in kept:
            kept[setting.name] = _measured(load(args.data, setting), args)
            parts.write_text(json.dumps(kept), "utf-8")
    parts.unlink(missing_ok=True)
    return [kept[setting.name] for setting in chosen]


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def _measured(loaded: Loaded, args: argparse.Namespace) -> dict[str, Any]:
    setting, n = loaded.setting, len(loaded)
    quality, called = loaded.cascade()
    whole = float(quality.mean()), float(called.mean())
    if max(abs(whole[0] - setting.quality), abs(whole[1] - setting.share)) > 0.001:
        tell(f"{setting.name}: on these {n} queries the untuned cascade has {whole[0]:.4f} at {whole[1]:.4f}")
    limits = {"fewer": PART * setting.share, "same": setting.share}
    lines: dict[str, Any] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    names: set[str] = set(setting.models)
    for line in (THREE, CHEAP):
        runs, floors = [], []
        for seed in range(args.seed, args.seed + args.splits):
            train, test = halves(n, seed)
            members = [*setting.small, *(loaded.cheap(train, args.cheap) if line == CHEAP else ()), setting.strong]
            names.update(members)
            data = loaded.dataset(members)
            shares = (*limits.values(), *(CURVE if seed == args.seed else ()))  # the picture is of the first split
            runs.append(fitted(data.take(train), data.take(test), setting.strong, shares))
            floors.append((float(quality[test].mean()), float(called[test].mean())))
            tell(f"{setting.name}, {line}: split {seed - args.seed + 1} of {args.splits}")
        found = {key: summary([run[share] for run in runs], floors) for key, share in limits.items()}
        found["floor"] = {
            "quality": float(np.mean([q for q, _ in floors])),
            "share": float(np.mean([s for _, s in floors])),
        }
        found["reached"] = reached(setting, found)
        lines[line] = found
        curves[line] = [(float(half.cost_usd.mean()), float(half.quality.mean())) for half in runs[0].values()]
    routes = {} if args.no_routing else _routing(loaded, args)
    curves |= {name: several.points() for name, several in routes.items()}
    for found in lines.values():
        for key in limits:
            found[key]["routing"] = {name: several.at(found[key]["cost_usd"]) for name, several in routes.items()}
    return _described(loaded, lines, curves, sorted(names))


def _routing(loaded: Loaded, args: argparse.Namespace) -> dict[str, Routed]:
    """By kind of routing, over the splits."""
    vectors = embedded([query.text for query in loaded.queries])
    splits = args.splits if args.routed is None else min(args.routed, args.splits)
    found: dict[str, Routed] = {}
    for seed in range(args.seed, args.seed + splits):
        for name, curve in routed(loaded, loaded.setting.models, seed, vectors).items():
            found.setdefault(name, Routed()).add(curve)
        tell(f"{loaded.setting.name}, routing: split {seed - args.seed + 1} of {splits}")
    return found


def _described(
    loaded: Loaded, lines: dict[str, Any], curves: dict[str, list[tuple[float, float]]], names: list[str]
) -> dict[str, Any]:
    setting, data = loaded.setting, loaded.dataset(names)
    singles = {n: (float(p.cost_usd.mean()), float(p.quality.mean())) for n, p in data.pools.items()}
    quality, called = loaded.cascade()
    small = sum(singles[name][0] for name in setting.small)
    cost = small + float((called * data.pools[setting.strong].cost_usd[:, 0]).mean())
    return {
        "name": setting.name,
        "models": list(setting.models),
        "queries": len(loaded),
        "strong_quality": singles[setting.strong][1],
        "strong_cost_usd": singles[setting.strong][0],
        "lines": lines,
        "curves": curves,
        "singles": singles,
        "cascade": (cost, float(quality.mean())),
    }


if __name__ == "__main__":
    sys.exit(main())
