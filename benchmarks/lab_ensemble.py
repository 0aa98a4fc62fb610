"""`python -m benchmarks.lab_ensemble`: the lab's ensemble against its members, by quality, cost and latency.

python -m benchmarks.lab_ensemble                       2,000 unseen queries, and 400 of them over HTTP
python -m benchmarks.lab_ensemble --http-n 2000         all of them over HTTP
python -m benchmarks.lab_ensemble --no-http             answers of the models only

Four members, a weak model of all tasks and three that know some of them; none of the queries was learned from by a
member, the ranker or the fuser. Every member is called for every query, as in LLM-Blender (Jiang et al. 2023,
arXiv 2306.02561), whose tables have no cost: here each call is paid, and latency is that of the served endpoint.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.application import application, profile
from benchmarks.cascade_serving.ask import Endpoint, Reply, ask_all
from benchmarks.process import BUILD, free_port, stop_in_order_on_sigterm
from benchmarks.progress import progress
from benchmarks.stamp import environment, one_line
from benchmarks.stats import percentile
from benchmarks.table import markdown
from serve_app import plots
from serve_app.arrays import Floats
from serve_app.data.collection.lab import LabPlan, record_lab, unseen_queries
from serve_app.data.dataset import Dataset
from serve_app.ensemble.ranking.aggregation import bubble, max_logits, max_wins, order
from serve_app.lab import models_dir
from serve_app.lab.tasks.base import grade
from serve_app.learning.metrics import bootstrap
from serve_app.training.lab_ensemble import FUSER, MEMBERS, RANKER

SHIPPED = Path(__file__).parents[1] / "serve_app" / "ensemble" / "lab" / "plan"
STRONG = "large"
VOTED, RANKED, FUSED = "vote", "PairRanker", "PairRanker and GenFuser"
ENSEMBLE = "jethro-ensemble"
TOP = 3
_CHUNK = 100
_ROUNDS = 1000
_PERMUTATIONS = 20
"""Orders in which bubble is run; its mean is reported, as that of drawing at random is."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; exits with a sentence on a wrong one."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.lab_ensemble", description=__doc__.splitlines()[0])
    p.add_argument("--n", type=int, default=8000, help="unseen queries, balanced over task and size")
    p.add_argument("--http-n", type=int, default=400, help="of them over HTTP")
    p.add_argument("--no-http", action="store_true")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--concurrency", type=int, default=4)
    p.add_argument("--folder", type=Path, default=SHIPPED, help="of ranker and fuser (default: those that ship)")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    if min(args.n, args.http_n) < 100:
        p.error("give at least 100 queries, fewer say nothing")
    return args


def main(argv: list[str] | None = None) -> int:
    """Record, rank, fuse, serve; JSON, table and plot. 1 where the ranker or the fuser misses what it is held to."""
    stop_in_order_on_sigterm()
    args = arguments(argv)
    stamp = environment()
    answers = record_lab(models_dir(), LabPlan(args.n, "measure", args.seed, models=(*MEMBERS, STRONG)), tell)
    methods = measured(answers, args.folder, args.seed)
    found: dict[str, Any] = {"environment": stamp, "seed": args.seed, "n": len(answers), "methods": figures(methods)}
    if not args.no_http:
        found["http"] = served(args)
    found["missed"] = missed(found["methods"])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "lab_ensemble.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "lab_ensemble.md").write_text(text(found), "utf-8")
    draw(found, args.out / "lab_ensemble.png")
    print(text(found))
    return int(bool(found["missed"]))


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """Quality and cost, US dollars, of each query, [n]."""

    name: str
    quality: Floats
    cost_usd: Floats
    single: bool = False


def measured(answers: Dataset, folder: Path, seed: int) -> list[Method]:
    """Every way to answer with the members, and each model alone."""
    pools = answers.pools
    quality = np.stack([pools[name].quality[:, 0] for name in MEMBERS], axis=1)
    paid = np.sum([_cost(answers, name) for name in MEMBERS], axis=0)
    alone = [Method(name, pools[name].quality[:, 0], _cost(answers, name), True) for name in (*MEMBERS, STRONG)]
    rows = np.arange(len(answers))
    picks = {VOTED: _voted(answers, quality), **_ranked(answers, folder)}
    bubbles = picks.pop("bubble")
    chosen = [Method(name, quality[rows, pick], paid) for name, pick in picks.items() if name != "top"]
    bubbled = Method("bubble", quality[rows[:, None], bubbles].mean(axis=1), paid)
    fused = Method(FUSED, _fused(answers, picks["top"], folder), paid)
    random, oracle = Method("random pick", quality.mean(axis=1), paid), Method("oracle", quality.max(axis=1), paid)
    return [*alone, random, chosen[0], bubbled, *chosen[1:], fused, oracle]


def _cost(answers: Dataset, pool: str) -> Floats:
    cost = answers.pools[pool].cost_usd
    assert cost is not None
    return cost[:, 0]


def _texts(answers: Dataset, row: int) -> list[str]:
    return [answers.pools[name].texts[row][0] for name in MEMBERS]


def _voted(answers: Dataset, quality: Floats) -> Any:
    """The plurality of the answers as they are; ties go to the member that is right most often, here."""
    strength = quality.mean(axis=0)
    found = []
    for row in range(len(answers)):
        texts = [text.strip() for text in _texts(answers, row)]
        counts = Counter(texts)
        found.append(max(range(len(texts)), key=lambda k: (counts[texts[k]], strength[k])))
    return np.array(found)


def _ranked(answers: Dataset, folder: Path) -> dict[str, Any]:
    """Position of each policy's winner, [n]; bubble's in several orders, [n, orders]; `top`: the best in order."""
    from serve_app.ensemble.ranking.pair_ranker import load_ranker

    ranker, models = load_ranker(folder / RANKER), [answers.pools[name].model for name in MEMBERS]
    found: dict[str, list[Any]] = {name: [] for name in ("bubble", "MaxWins", RANKED, f"{RANKED}, members known")}
    top, rng = list[list[int]](), np.random.default_rng(0)
    for start in range(0, len(answers), _CHUNK):
        part = range(start, min(start + _CHUNK, len(answers)))
        for matrix in ranker.matrices([(answers.queries[row].text, _texts(answers, row)) for row in part]):
            found["bubble"].append([_bubbled(matrix, rng) for _ in range(_PERMUTATIONS)])
            found["MaxWins"].append(order(max_wins(matrix))[0])
            scores = max_logits(matrix)
            found[RANKED].append(order(scores)[0])
            found[f"{RANKED}, members known"].append(order(ranker.informed(scores, models))[0])
            top.append(order(scores))
    return {**{name: np.array(own) for name, own in found.items()}, "top": np.array(top)}


def _bubbled(matrix: Floats, rng: np.random.Generator) -> int:
    def compare(pairs: Sequence[tuple[int, int]]) -> tuple[Floats, Floats]:
        (i, j), *_ = pairs
        return matrix[[i], [j]], matrix[[j], [i]]

    return bubble(len(matrix), compare, rng)


def _fused(answers: Dataset, top: Any, folder: Path) -> Floats:
    """Quality of the fused answers, [n]."""
    from serve_app.ensemble.fusing.gen_fuser import GenFuser

    fuser = GenFuser.load(folder / FUSER)
    ordered = [[_texts(answers, row)[k] for k in top[row][:TOP]] for row in range(len(answers))]
    texts = [one.text for one in fuser.fuse([query.text for query in answers.queries], ordered)]
    return np.array([grade(str(ref), text) for ref, text in zip(answers.references, texts, strict=True)])


def figures(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Of each method quality with its interval, cost, and the share of the gap it closes."""
    by_name = {method.name: method.quality for method in methods}
    best = max(MEMBERS, key=lambda name: float(by_name[name].mean()))
    oracle = by_name["oracle"]
    found = []
    for method in methods:

        def closed(rows: Any, q: Floats = method.quality) -> float:
            gap = float((oracle[rows] - by_name[best][rows]).mean())
            return float((q[rows] - by_name[best][rows]).mean()) / gap

        interval = bootstrap(lambda rows, q=method.quality: float(q[rows].mean()), len(oracle), rounds=_ROUNDS)
        gap = bootstrap(closed, len(oracle), rounds=_ROUNDS)
        found.append(
            {
                "name": method.name,
                "single": method.single,
                "best_single": method.name == best,
                "quality": interval.value,
                "quality_95": [interval.low, interval.high],
                "usd_per_thousand": 1e3 * float(method.cost_usd.mean()),
                "gap_closed": gap.value,
                "gap_closed_95": [gap.low, gap.high],
            }
        )
    return found


def missed(found: Sequence[dict[str, Any]]) -> list[str]:
    """What the ensemble is held to, and does not keep."""
    of = {one["name"]: one for one in found}
    ranked, fused = of[RANKED], of[FUSED]["quality"]
    short = []
    if ranked["gap_closed"] < 0.6:
        short.append(f"PairRanker closes {ranked['gap_closed']:.2f} of the gap, not 0.6")
    if fused < ranked["quality"]:
        short.append(f"fused {fused:.4f} is below PairRanker's {ranked['quality']:.4f}")
    if not ranked["quality"] >= of["bubble"]["quality"] >= of["random pick"]["quality"]:
        short.append("MaxLogits >= bubble >= random pick does not hold")
    return short


def served(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The same queries over HTTP: each model alone, and all members by vote, ranked, and fused."""
    items = unseen_queries(args.n, args.seed, "measure")[: args.http_n]
    calls = [{"pool": name, "samples": 1} for name in MEMBERS]
    ranked = {"select": "ranker", "ranker": str(args.folder / RANKER), "ranker_timeout_ms": 10_000}
    settings: dict[str, dict[str, Any]] = {
        VOTED: {"select": "vote"},
        RANKED: ranked,
        FUSED: {**ranked, "fuser": str(args.folder / FUSER), "fuse_top": TOP},
    }
    rows = []
    for name, own in settings.items():
        port = free_port()
        config = profile(port, BUILD / "lab_ensemble.sqlite3", profile="ensemble")
        config["ensemble"] = {"rounds": [{"calls": calls}], **own}
        models = [ENSEMBLE, *(f"jlab-{one}" for one in (*MEMBERS, STRONG) if name == VOTED)]
        with application(config, "lab_ensemble"):
            endpoint = Endpoint(f"http://127.0.0.1:{port}", None, args.concurrency)
            asyncio.run(ask_all(endpoint, models, items[:40], args.seed + 1, lambda done: None))
            replies = asyncio.run(
                ask_all(endpoint, models, items, args.seed, progress(f"HTTP, {name}", len(items) * len(models)))
            )
        rows += [_over_http(name if model == ENSEMBLE else model, of) for model, of in replies.items()]
    return rows


def _over_http(name: str, replies: Sequence[Reply]) -> dict[str, Any]:
    last: Callable[[float], float] = lambda p: percentile([reply.last_ms for reply in replies], p)  # noqa: E731
    return {
        "name": name,
        "n": len(replies),
        "quality": float(np.mean([reply.quality for reply in replies])),
        "usd_per_thousand": 1e3 * float(np.mean([reply.cost_usd for reply in replies])),
        "tokens": float(np.mean([reply.tokens for reply in replies])),
        "p50_ms": last(50),
        "p95_ms": last(95),
    }


def text(found: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    rows = [
        [
            f"**{one['name']}** (best single)" if one["best_single"] else one["name"],
            f"{100 * one['quality']:.1f}",
            _between(one["quality_95"]),
            one["usd_per_thousand"],
            f"{100 * one['gap_closed']:.0f}",
            _between(one["gap_closed_95"], 0),
        ]
        for one in found["methods"]
    ]
    head = ("method", "exact, %", "95 %", "USD per 1,000", "gap closed, %", "95 %")
    parts = [
        "# The lab's ensemble\n",
        f"{found['n']:,} unseen queries, balanced over task and size. Members: {', '.join(MEMBERS)}; every one is "
        "called for every query, and paid. Gap: from the best single member to the oracle, which picks a right answer "
        f"wherever there is one; {STRONG} is no member. Bubble is the mean of {_PERMUTATIONS} orders. Intervals: "
        "bootstrap of the queries.\n",
        markdown(head, rows),
    ]
    if "http" in found:
        rows = [
            [one["name"], f"{100 * one['quality']:.1f}", one["usd_per_thousand"], one["tokens"], one["p50_ms"],
             one["p95_ms"]]
            for one in found["http"]
        ]  # fmt: skip
        head = ("over HTTP", "exact, %", "USD per 1,000", "tokens", "p50, ms", "p95, ms")
        parts += [
            f"{found['http'][0]['n']:,} of them over HTTP, streamed, on cores that all models share. Milliseconds to "
            "the last token.\n",
            markdown(head, rows),
        ]
    if found["missed"]:
        parts.append("Missed: " + "; ".join(found["missed"]) + ".\n")
    parts.append(one_line(found["environment"]) + "\n")
    return "\n".join(parts)


def _between(interval: Sequence[float], decimals: int = 1) -> str:
    low, high = (f"{100 * end:.{decimals}f}" for end in interval)
    return f"{low} to {high}"


def draw(found: dict[str, Any], path: Path) -> None:
    """Quality against cost."""
    figure, axes = plots.new_figure(1, 6.4, 4.4)
    for number, one in enumerate(found["methods"]):
        at = (one["usd_per_thousand"], 100 * one["quality"])
        plots.mark(axes, number, at, one["name"], filled=not one["single"])
    title = f"Four members, {found['n']:,} unseen queries"
    plots.finish(axes, title, xlabel="USD per 1,000 queries", ylabel="exact, %")
    plots.caption(figure, one_line(found["environment"]))
    plots.save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
