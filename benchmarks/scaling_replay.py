"""`python -m benchmarks.scaling_replay RECORDING`: the simulator's prediction for a real run of `scaling_live`.

The pools' times are fitted to the recorded calls; the policy's settings and bounds are those of that run. `--warm-up-s`
is how long a replica takes from the wish for it to its first answer on the machine, which calls do not tell.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.scaling_live import BOUNDS, CONCURRENCY, HEADROOM, HOLD_S, IDLE_S
from benchmarks.scaling_recording import PredictedFigure, Recording, replay
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.autoscaling.comparison import fit
from serve_app.autoscaling.policy import PoolLimits
from serve_app.autoscaling.rules import ShareRule
from serve_app.autoscaling.simulator import Control, PoolModel

POLICY_WARM_UP_S = 5.0
"""What the policy of `scaling_live` receives."""
CONTROL = Control(every_s=0.5, window_s=5.0, delay_s=0.5)
"""The real policy plans twice a second, on Gateways' counts over five seconds that are reported every second: half a
second old on average."""


def predict(recording: Recording, warm_up_s: float) -> list[PredictedFigure]:
    """Predicted and measured figures of a run under the share policy."""
    base = PoolModel(concurrency=CONCURRENCY, slowdown=0.0, warm_up_s=warm_up_s, queue=256, own_queues=True)
    models = {name: fit([c for c in recording.calls if c.pool == name], base) for name in BOUNDS}
    limits = PoolLimits(
        concurrency=CONCURRENCY, headroom=HEADROOM, warm_up_s=POLICY_WARM_UP_S, hold_s=HOLD_S, idle_s=IDLE_S
    )
    bounds = {name: replace(limits, min_replicas=low, max_replicas=high) for name, (low, high) in BOUNDS.items()}
    return replay(recording, models, ShareRule(bounds), CONTROL)[1]


def table(found: Sequence[PredictedFigure]) -> str:
    """As Markdown."""
    rows = [(a.figure, a.predicted, a.measured, f"{100 * a.error:.0f} %") for a in found]
    return markdown(("figure", "predicted", "measured", "error"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict, write scaling_replay.json and .md, print."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.scaling_replay", description=__doc__.splitlines()[0])
    p.add_argument("recording", type=Path, help="scaling_live_share.recording.json")
    p.add_argument("--warm-up-s", type=float, default=3.0)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    found, stamp = predict(Recording.load(args.recording), args.warm_up_s), environment()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {a.figure: {"predicted": a.predicted, "measured": a.measured, "error": a.error} for a in found}
    body = {"environment": stamp, "warm_up_s": args.warm_up_s, "figures": rows}
    (args.out / "scaling_replay.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", "utf-8")
    text = f"{table(found)}\nA replica is up {args.warm_up_s:g} s after the wish for it.\n\n{one_line(stamp)}\n"
    (args.out / "scaling_replay.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
