"""`python -m benchmarks.cascades --data FOLDER`: every method on recorded answers of real models.

python -m benchmarks.cascades --data cascade/                  everything: areas, dominance, the plain table, noise
python -m benchmarks.cascades --data cascade/ --only 2         settings of two models
python -m benchmarks.cascades --data cascade/ --noise          the noise sweep at the paper's levels, nothing else

FOLDER holds mmlu_chain.jsonl.gz and triviaqa_chain.jsonl.gz, see `serve_app.data.recorded` for their columns. The
estimates and policies are fitted on split `train` and reported on split `test`. Forms and constants were chosen by
cross-validation on train, over all pairs of models and over settings; test was looked at in earlier versions. The area
under quality against cost is the mean test quality over the mean costs from the cheapest to the dearest model of a
setting (trapezoids through the points a method reaches, level beyond them): the paper's, over the width of the range.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cascades.curves import Curve, resamples
from benchmarks.cascades.figures import JUDGED, areas, dominance, not_below, plain_rows
from benchmarks.cascades.methods import FITTED, Setting, all_methods, prepare
from benchmarks.cascades.noise import LEVELS, sweep
from benchmarks.cascades.plot import draw
from benchmarks.cascades.report import text
from benchmarks.cascades.settings import MODELS, PLAIN, SETTINGS, load
from benchmarks.stamp import environment, one_line
from serve_app.data.recorded import Recorded
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder

Floats = NDArray[np.float64]
NOISE_MODELS = 3
"""Settings of at least so many models are in the noise sweep: with two there is nothing to skip."""

NOISE_SLACK = 0.001
"""Of an area: one draw of noise, no interval."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.cascades", description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True, help="folder of the recorded answers")
    p.add_argument("--only", type=int, default=None, help="settings of so many models")
    p.add_argument("--noise", action="store_true", help="the noise sweep and nothing else")
    p.add_argument("--rounds", type=int, default=1000, help="bootstrap resamples")
    p.add_argument("--seed", type=int, default=0, help="draws folds, resamples and noise")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Fit, measure, write JSON, table and plot; 1 if a bar is missed, 2 on an operator's mistake."""
    args = arguments(argv)
    stamp = environment()
    stamp["command"] = " ".join(Path(word).name for word in (sys.argv[1:] if argv is None else argv))
    chains = [s for s in SETTINGS if args.only in (None, len(s))]
    if not chains:
        print(f"error: no setting has {args.only} models; there are some of 2 to 5", file=sys.stderr)
        return 2
    try:
        found, panels = _measured(load(args.data), chains, args)
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    result = {"environment": stamp, "seed": args.seed, "rounds": args.rounds, **found}
    if args.noise:
        print(json.dumps(found["noise"], indent=1))
        return int(bool(found["verdict"]["noise"] or found["verdict"]["lead_over_routing"]))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "cascades.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (args.out / "cascades.md").write_text(text(result), "utf-8")
    draw(panels, f"{one_line(stamp)}, seed {args.seed}", args.out / "cascades.png")
    print(text(result))
    return int(any(found["verdict"].values()))


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def _tell_of(title: str, method: str) -> None:
    tell(f"{title}: {method}")


def _measured(
    sets: dict[str, Recorded], chains: list[tuple[str, ...]], args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    settings: list[dict[str, Any]] = []
    plain: list[dict[str, Any]] = []
    noise: list[dict[str, Any]] = []
    panels: dict[str, Any] = {}
    for data, recorded in sets.items():
        tell(f"{data}: {len(recorded):,} queries, reading prompts")
        vectors = load_encoder().embed(recorded.prompts).astype(np.float64)
        counts = resamples(len(recorded.split("test")), args.rounds, args.seed)
        for models in chains:
            title = f"{data} {' → '.join(models)}"
            setting = prepare(recorded, [MODELS[m] for m in models], vectors, args.seed)
            if len(models) >= NOISE_MODELS:
                tell(f"{title}: noise")
                noise.append({"data": data, "models": models, "levels": sweep(setting, LEVELS, args.seed)})
            if args.noise:
                continue
            curves = all_methods(setting, partial(_tell_of, title))
            tell(f"{title}: bootstrap")
            rows = [row for row in PLAIN if row.setting == models and row.data == data]
            plain += plain_rows(setting, curves, rows, counts)
            settings.append(_setting(data, models, setting, curves, counts))
            means = zip(setting.test.cost_usd.mean(0).tolist(), setting.test.ok.mean(0).tolist(), strict=True)
            panels[title] = curves, dict(zip(models, means, strict=True))
    verdict = _verdict(settings, plain, noise)
    return {"settings": settings, "plain": plain, "noise": noise, "verdict": verdict}, panels


def _setting(
    data: str, models: tuple[str, ...], setting: Setting, curves: dict[str, Curve], counts: list[Floats]
) -> dict[str, Any]:
    return {
        "data": data,
        "models": list(models),
        "range_usd": list(setting.range_usd),
        "alone": setting.test.ok.mean(0).tolist(),
        "methods": areas(setting, curves, counts),
        "dominance": dominance(setting, curves, counts),
        "points": {name: curve.points().tolist() for name, curve in curves.items()},
    }


def _verdict(
    settings: list[dict[str, Any]], plain: list[dict[str, Any]], noise: list[dict[str, Any]]
) -> dict[str, list[str]]:
    """What misses a bar, by name."""

    def title(one: dict[str, Any]) -> str:
        return f"{one['data']} {' → '.join(one['models'])}"

    return {
        "below": [title(one) for one in settings if not not_below(one["methods"])],
        "dominated": [
            f"{title(one)} ({m})" for one in settings for m in FITTED if one["dominance"][m]["beyond_chance"] > 0
        ],
        "not_beaten": [
            f"{row['data']} {' → '.join(row['setting'])} at {100 * row['cost_share']:.0f} %"
            for row in plain
            if not row["beaten"][JUDGED[0]]
        ],
        "noise": [
            f"{title(one)}, {level}"
            for one in noise
            for level, at in one["levels"].items()
            if at["cascade routing"] < max(at["routing"], at["cascade"]) - NOISE_SLACK
        ],
        "lead_over_routing": [
            title(one) for one in noise if _over_routing(one["levels"]["low"]) < _over_routing(one["levels"]["high"])
        ],
    }


def _over_routing(level: dict[str, Any]) -> float:
    return float(level["cascade routing"] - level["routing"])


if __name__ == "__main__":
    sys.exit(main())
