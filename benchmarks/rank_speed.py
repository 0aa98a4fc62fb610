"""Ranking candidates in shared batches against pair by pair, and concurrent requests against one after another.

Pair by pair is LLM-Blender's loop: one forward pass for each ordered pair, its three texts tokenized for it, without
padding, and nothing kept from one pair to the next. Same network, weights, precision, threads and machine; scores are
compared. One after another is a client that sends a request when the one before has its scores; at once, all wait for
the ranking thread and share its passes. Both go through that thread, with its torch threads as a Scorer has them.
Rankers have an untrained head, which takes as long as a trained one.

python -m benchmarks.rank_speed                      short texts, as the lab's
python -m benchmarks.rank_speed --data alpaca.jsonl.gz    and answers of real models
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.arrays import Floats

FORMS = {"pair, as defined": ("pair", None), "pair, 2 joint layers": ("pair", 2), "pair, 1 joint layer": ("pair", 1)}
LONG_S = 10.0
SLOW_S = 1.0
FEW = 4
"""Concurrent requests where one alone takes longer than SLOW_S: sixteen would take many minutes."""
NOTE = (
    "Pair by pair and batched run the same network. Where layers are staged (joint layers), the loop runs all of it "
    "for each ordered pair; a loop that knew that swapping negates a staged network's logits would take half as long. "
    "*At once* gains where a single request leaves the cores idle: with short texts, whose matrices are small. Where "
    "one request alone is thousands of tokens, its passes are bound by arithmetic, which no batch makes less, and the "
    "gain is near 1; so it is for batching against the loop in the network as defined, whose pairs share nothing."
)
Request = tuple[str, tuple[str, ...]]


def short_requests(n: int, candidates: int) -> list[Request]:
    """Sums with different answers of a few words."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        a, b = rng.integers(10, 1000, 2).tolist()
        near = rng.permutation(200)[:candidates] - 100
        forms = ("{}", "the sum is {}", "{} is the answer", "it is {}")
        texts = tuple(forms[k % 4].format(a + b + int(d)) for k, d in enumerate(near))
        found.append((f"what is {a} + {b}? give the bare result", texts))
    return found


def real_requests(path: Path, n: int, candidates: int) -> list[Request]:
    """Answers of real models, of a file with AlpacaEval's columns."""
    import gzip

    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in raw.splitlines()[:n]]
    return [(row["instruction"], tuple(list(row["outputs"].values())[:candidates])) for row in rows]


def made(form: str, joint: int | None, precision: str) -> Any:
    """A ranker with random special tokens, so that scores differ."""
    import torch

    from serve_app.ensemble.ranking.files import new_network, stored_weights
    from serve_app.ensemble.ranking.network import NetworkShape
    from serve_app.ensemble.ranking.pair_ranker import PairRanker
    from serve_app.ensemble.ranking.sequence import Lengths

    network = new_network("minilm", NetworkShape(form, ("quality",), Lengths(128, 192), joint), 0)  # type: ignore[arg-type]
    with torch.no_grad():
        network.head[4].weight.mul_(4)
    ranker = PairRanker(network.requires_grad_(False), stored_weights(network), {})
    return ranker.narrow() if precision == "bfloat16" else ranker


def pair_by_pair(ranker: Any, request: Request) -> Floats:
    """MaxLogits by one forward pass for each ordered pair."""
    import torch

    network, (source, texts) = ranker.network, request
    from serve_app.ensemble.ranking.network import Parts

    matrix = np.zeros((len(texts), len(texts)))
    layers = network.layers
    if not network.staged:
        network.layers = None  # Hugging Face's own forward pass
    with torch.inference_mode():
        for i, left in enumerate(texts):
            for j, right in enumerate(texts):
                if i != j:
                    ids = network.tokens.source(source)
                    parts = Parts([ids], network.tokens.candidates([left, right], len(ids)), [0, 0])
                    one, other = network(parts, [(0, 1)])
                    matrix[i, j] = float((one - other).mean())
    network.layers = layers
    scores: Floats = (matrix - matrix.T).sum(axis=1)
    return scores


def best_s(run: Callable[[], Any], rounds: int) -> float:
    """The least time of several runs; the first is not counted, unless it alone takes longer than LONG_S."""
    times = list[float]()
    while len(times) <= rounds and not (times and times[0] > LONG_S):
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    return min(times[1:] or times)


def concurrency(ranker: Any, requests: Sequence[Request], rounds: int, threads: int) -> tuple[float, float]:
    """Requests a second through the ranking thread: all at once, and one after another."""
    from serve_app.ensemble.ranking.service import RankingThread
    from serve_app.learning.batching import BatchingThread
    from serve_app.routing.serving.loading import limit_torch_threads

    thread = RankingThread(thread=BatchingThread(len(requests), partial(limit_torch_threads, threads)))

    async def at_once() -> None:
        await asyncio.gather(*(thread.scores(ranker, source, texts) for source, texts in requests))

    async def in_turn() -> None:
        for source, texts in requests:
            await thread.scores(ranker, source, texts)

    with asyncio.Runner() as runner:
        seconds = [best_s(lambda a=act: runner.run(a()), rounds) for act in (at_once, in_turn)]  # type: ignore[misc]
        runner.run(thread.aclose())
    return len(requests) / seconds[0], len(requests) / seconds[1]


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each workload, form and precision."""
    loads = {"short": short_requests(args.concurrent, args.candidates)}
    if args.data:
        loads["real answers"] = real_requests(args.data, args.concurrent, args.candidates)
    rows = []
    for load, requests in loads.items():
        for name, (form, joint) in FORMS.items():
            for precision in args.precision.split(","):
                ranker = made(form, joint, precision)
                loop_s = best_s(lambda r=ranker, q=requests[0]: pair_by_pair(r, q), args.rounds)
                batch_s = best_s(lambda r=ranker, q=requests[0]: r.scores(*q), args.rounds)
                apart = [np.abs(pair_by_pair(ranker, q) - ranker.scores(*q)).max() for q in requests[: args.compared]]
                some = requests[:FEW] if batch_s > SLOW_S else requests
                at_once, in_turn = concurrency(ranker, some, args.rounds, args.threads)
                row = {"texts": load, "ranker": name, "precision": precision}
                row |= {"loop_ms": 1e3 * loop_s, "batch_ms": 1e3 * batch_s, "faster": loop_s / batch_s}
                row |= {
                    "largest_difference": float(max(apart)),
                    "at_once": at_once,
                    "in_turn": in_turn,
                    "requests": len(some),
                }
                rows.append({**row, "gain": at_once / in_turn})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def text(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["texts", "ranker", "precision", "pair by pair, ms", "batched, ms", "faster", "scores differ by"]
    head += ["requests", "at once, /s", "in turn, /s", "gain"]
    rows = [[r["texts"], r["ranker"], r["precision"], r["loop_ms"], r["batch_ms"], f"{r['faster']:.1f}",
             f"{r['largest_difference']:.1e}", r["requests"], r["at_once"], r["in_turn"], f"{r['gain']:.2f}"]
            for r in found["rows"]]  # fmt: skip
    about = (
        f"{found['candidates']} candidates, MiniLM, up to 192 tokens of each and what the request leaves, "
        f"{found['threads']} thread(s). Least of several runs. Scores are MaxLogits. {NOTE}"
    )
    return f"# Speed of ranking\n\n{about}\n\n{markdown(head, rows)}\n{one_line(found['environment'])}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and table."""
    import torch

    p = argparse.ArgumentParser(prog="python -m benchmarks.rank_speed", description=__doc__.splitlines()[0])
    folder = os.environ.get("JETHRO_TEST_DATA")
    default = Path(folder) / "ensemble" / "alpaca_eval_dev.jsonl.gz" if folder else None
    p.add_argument("--data", type=Path, default=default, help="answers of real models too, in AlpacaEval's columns")
    p.add_argument("--candidates", type=int, default=8)
    p.add_argument("--concurrent", type=int, default=16)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--compared", type=int, default=1, help="requests whose scores are compared")
    p.add_argument("--precision", default="float32", help="of the encoder's linear layers; commas")
    p.add_argument("--threads", type=int, default=2, help="torch threads, also of the ranking thread")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    torch.set_num_threads(args.threads)
    stamp = environment()
    if args.data:
        stamp["command"] = stamp["command"].replace(str(args.data), args.data.name)
    found = {"environment": stamp, "rows": measured(args)}
    found |= {"candidates": args.candidates, "concurrent": args.concurrent, "threads": args.threads}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rank_speed.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "rank_speed.md").write_text(text(found), "utf-8")
    print(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
