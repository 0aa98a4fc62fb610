"""`python -m benchmarks.skewed_streams`: the online cascade and margin sampling on even labels and on one common label.

python -m benchmarks.skewed_streams --data isear.jsonl.gz --expert gpt35 --names joy sadness ... disgust
python -m benchmarks.skewed_streams --data mine.jsonl --expert llm --common spam --shares 0.2

Any file of rows with `text`, `label` and a column of recorded LLM labels. One stream is half of the file as it is; the
others are the file thinned at random until one label has two thirds of the rows, another draw for each seed. Margin
sampling has the cascade's students and makes as many LLM calls as the cascade of the same seed. Replays are kept as
they end: the same command resumes after a kill.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.online_cascade.stream import Recorded, load, remember_vectors
from benchmarks.process import BUILD
from benchmarks.skewed_streams.plot import draw
from benchmarks.skewed_streams.report import text
from benchmarks.skewed_streams.runs import CASCADE, METHODS, Replays
from benchmarks.skewed_streams.summary import summary, verdict
from benchmarks.stamp import environment
from serve_app.errors import ConfigError, DataError

SHARE = 2 / 3
"""Of the common label."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.skewed_streams", description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True, help="JSON lines of text, label and LLM labels; may be gzipped")
    p.add_argument("--expert", required=True, help="the column of the LLM's labels")
    p.add_argument("--names", nargs="+", default=[], help="words of numbered labels, in their order")
    p.add_argument("--common", nargs="+", help="labels to thin the file to, each a stream (default: the first label)")
    p.add_argument("--seeds", type=int, default=5, help="seeds of draw, order and learner")
    p.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.4], help="of LLM calls")
    p.add_argument("--keep", type=Path, default=BUILD / "skewed_streams", help="replays are kept here")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Replay, write JSON, table and plot; 1 if the cascade is below margin sampling, 2 on an operator's mistake."""
    args = arguments(argv)
    stamp = environment()
    stamp["command"] = " ".join(Path(word).name for word in (sys.argv[1:] if argv is None else argv))
    try:
        result = measure(args)
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    result["environment"] = stamp
    args.out.mkdir(parents=True, exist_ok=True)
    name = "skewed_streams" if result["data"] == "isear" else f"skewed_streams_{result['data']}"
    (args.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (args.out / f"{name}.md").write_text(text(result), "utf-8")
    draw(result, args.out / f"{name}.png")
    print(text(result))
    return 0 if all(one["not_below"] for one in result["verdict"]) else 1


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, JSON-ready."""
    data = load(args.data, args.expert, tuple(args.names))
    common = args.common or [data.labels[0]]
    if unknown := sorted(set(common) - set(data.labels)):
        raise DataError(f"--common {unknown[0]!r} is none of the labels {', '.join(data.labels)}")
    remember_vectors(data.texts, args.keep, _tell)
    replays = Replays(args.keep, args.expert, range(args.seeds), _tell)
    streams = {"even": [data.halves()[0].shuffled(seed) for seed in range(args.seeds)]}
    for name in common:
        streams[name] = [thinned(data, data.labels.index(name), seed) for seed in range(args.seeds)]
    shares = [f"{share:g}" for share in args.shares]
    found = {name: {share: _compared(replays, one, float(share)) for share in shares} for name, one in streams.items()}
    return {
        "data": data.name,
        "expert": args.expert,
        "labels": list(data.labels),
        "seeds": args.seeds,
        "queries": {name: len(one[0]) for name, one in streams.items()},
        "llm": {name: replays.llm(one) for name, one in streams.items()},
        "streams": found,
        "verdict": verdict(found),
    }


def thinned(data: Recorded, label: int, seed: int) -> Recorded:
    """All rows of a label, and so many of the others that it has `SHARE` of the rows. Raises DataError for too few."""
    others = (data.gold != label).nonzero()[0]
    own = (data.gold == label).nonzero()[0]
    count = round(len(own) * (1 - SHARE) / SHARE)
    if not len(own) or count > len(others):
        raise DataError(f"{len(own):,} rows of {data.labels[label]!r} and {len(others):,} others are not enough")
    rng = np.random.default_rng([seed, 11])
    return data.take(rng.permutation(np.concatenate([own, rng.choice(others, count, replace=False)])))


def _compared(replays: Replays, streams: list[Recorded], share: float) -> dict[str, Any]:
    """Each method over the seeds, with its difference from the cascade's default."""
    runs = {name: replays.runs(name, streams, share) for name in METHODS}
    return {name: summary(one, runs[CASCADE]) for name, one in runs.items()}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
