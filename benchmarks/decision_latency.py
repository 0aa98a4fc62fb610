"""`python -m benchmarks.decision_latency`: how long a decision takes, by kind of router, alone and under concurrency.

Each router is fitted on a few lab-like queries, registered, and loaded as a Gateway loads it; its scorer is then called
as a Gateway asks it, every query a new one, so that no cache answers. Encoder routers run twice: with the real
encoder on short and on long prompts, and with 100,000 stored examples beyond an encoder that costs nothing.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.stamp import environment, one_line
from benchmarks.stats import percentile
from benchmarks.table import markdown
from serve_app.config.strategies import RoutingConfig
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.decision.threshold import Calibration, Threshold
from serve_app.learning import encoder as encoders
from serve_app.routing.base import Router
from serve_app.routing.registry import Registry
from serve_app.routing.serving.loading import RouterFactory
from serve_app.routing.serving.served import ServedRouter
from serve_app.training.training import new_router
from serve_app.types import Message, Query

FEATURE_KINDS = ("random", "complexity")
ENCODER_KINDS = ("knn", "mf", "sw_ranking")
STORED = 100_000
CONCURRENCY = 32
INSTANT = "instant"
_FITTED_ON = 400
_SENTENCE = "A train leaves station {} at noon and goes {} km an hour; a second one leaves {} minutes later. "
_QUESTION = "When do they meet, and how far is that from station {}?"

BOUNDS = {
    "feature, alone": ("p50_ms", 1.0),
    "encoder, alone": ("p50_ms", 8.0),
    "encoder, concurrent": ("per_second", 150.0),
    "beyond the encoder": ("p50_ms", 2.0),
}
"""What must hold, by scenario: p50 at most, decisions a second at least."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement; `words` is the length of a prompt, `cpu_ms` what a decision costs in processor time: it shows
    what to expect where other programs do not take the cores away."""

    router: str
    scenario: str
    words: float
    decisions: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    per_second: float

    @property
    def holds(self) -> bool:
        """Whether the scenario's bound is kept."""
        figure, bound = BOUNDS[self.scenario]
        value: float = getattr(self, figure)
        return value <= bound if figure == "p50_ms" else value >= bound


class InstantEncoder:
    """Stands for an encoder that costs nothing: vectors around 200 directions, drawn from a text's hash."""

    name = INSTANT
    digest = "0" * 16
    dimensions = 384

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._centres = rng.normal(size=(200, self.dimensions)).astype(np.float32)
        self._noise = rng.normal(size=(5000, self.dimensions)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> Any:
        """Unit vectors, shape [len(texts), dimensions]."""
        at = np.array([hash(text) for text in texts], dtype=np.int64)
        raw = self._centres[at % 200] + 0.7 * self._noise[at % 5000]
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def cached(self, text: str) -> None:
        """Nothing is kept."""
        return None


def texts(seed: int, sentences: int) -> Iterator[str]:
    """New prompts without end, of so many sentences and a question."""
    rng = Random(seed)
    for number in count():
        parts = [_SENTENCE.format(number, rng.randrange(10**4), rng.randrange(10**4)) for _ in range(sentences)]
        yield "".join(parts) + _QUESTION.format(rng.randrange(10**6))


def dataset(n: int, seed: int) -> Dataset:
    """Prompts that the strong pool answers and the weak one half of the time, the harder the more sentences."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    streams = {True: texts(seed, 2), False: texts(seed + 1, 0)}
    queries = tuple(Query((Message("user", next(streams[bool(h)])),)) for h in hard)
    pools = {}
    for name, quality in (("small", rng.random(n) < np.where(hard, 0.2, 0.9)), ("large", np.ones(n, dtype=bool))):
        column = np.ones((n, 1))
        pools[name] = PoolAnswers(
            name, (("a",),) * n, quality.astype(np.float64)[:, None], column * 1e-6, column * 30, column * 5
        )
    return Dataset(queries, pools, ("trains",) * n)


def fitted(kind: str, n: int, **params: Any) -> Router:
    """A router of that kind fitted on `n` prompts."""
    started = perf_counter()
    router = new_router(kind, params, 0).fit(dataset(n, 1))
    print(f"{kind}: fitted on {n:,} in {perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return router


def served(router: Router, folder: Path, threads: int, batch: int) -> tuple[ServedRouter, Callable[[], None]]:
    """The router as a Gateway serves it, and a function that ends its thread."""
    registry, held = Registry(folder), dataset(200, 2)
    calibration = Calibration.of(router.score(held.queries), held)
    registry.register(
        router,
        name=f"bench_{router.name}",
        calibration=calibration,
        threshold=Threshold.for_share(calibration, 0.4),
        models=("small", "large"),
        data={},
        metrics={},
        use=True,
    )
    routing = RoutingConfig(registry=str(folder), score_threads=threads, score_batch=batch, score_timeout_ms=60_000)
    factory = RouterFactory(routing, registry)
    return factory.load(f"bench_{router.name}"), factory.close


async def alone(score: Callable[[Query], Awaitable[Any]], prompts: Iterator[str], seconds: float) -> list[float]:
    """Seconds of each decision, one after another."""
    taken: list[float] = []
    until = perf_counter() + seconds
    while perf_counter() < until:
        query = Query((Message("user", next(prompts)),))
        started = perf_counter()
        await score(query)
        taken.append(perf_counter() - started)
    return taken


async def concurrent(score: Callable[[Query], Awaitable[Any]], prompts: Iterator[str], seconds: float) -> list[float]:
    """The same from many callers at once."""
    found = await asyncio.gather(*(alone(score, prompts, seconds) for _ in range(CONCURRENCY)))
    return [taken for part in found for taken in part]


def measured(scorer: ServedRouter, router: str, scenario: str, sentences: int, seconds: float) -> Row:
    """One row; a short run before it warms up."""
    run = concurrent if scenario.endswith("concurrent") else alone
    prompts = texts(hash(scenario) % 1000, sentences)
    asyncio.run(run(scorer.score, prompts, min(1.0, seconds)))
    started, spent = perf_counter(), process_time()
    taken = asyncio.run(run(scorer.score, prompts, seconds))
    row = Row(
        router=router,
        scenario=scenario,
        words=len(next(prompts).split()),
        decisions=len(taken),
        p50_ms=1e3 * percentile(taken, 50),
        p99_ms=1e3 * percentile(taken, 99),
        cpu_ms=1e3 * (process_time() - spent) / len(taken),
        per_second=len(taken) / (perf_counter() - started),
    )
    print(
        f"{router}, {scenario}: p50 {row.p50_ms:.3f} ms, CPU {row.cpu_ms:.3f} ms, {row.per_second:,.0f}/s",
        file=sys.stderr,
        flush=True,
    )
    return row


def feature_rows(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Routers that read features, in the event loop."""
    rows = []
    for kind in FEATURE_KINDS:
        scorer, close = served(fitted(kind, _FITTED_ON), folder, args.threads, args.batch)
        rows.append(measured(scorer, kind, "feature, alone", 1, args.seconds))
        close()
    return rows


def encoder_rows(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Routers on the real encoder: a question alone, then from many callers; and the question in a long prompt."""
    rows = []
    for kind in args.kinds:
        scorer, close = served(fitted(kind, _FITTED_ON), folder, args.threads, args.batch)
        for sentences in (0, 2):
            rows.append(measured(scorer, kind, "encoder, alone", sentences, args.seconds))
            rows.append(measured(scorer, kind, "encoder, concurrent", sentences, args.seconds))
        close()
    return rows


def stored_rows(folder: Path, args: argparse.Namespace) -> list[Row]:
    """Routers with many stored examples, on an encoder that costs nothing."""
    encoders._loaded[INSTANT] = InstantEncoder()  # type: ignore[assignment]  # a stand-in, for this measurement only
    rows = []
    for kind in args.kinds:
        scorer, close = served(fitted(kind, args.stored, encoder=INSTANT), folder, args.threads, args.batch)
        rows.append(measured(scorer, kind, "beyond the encoder", 0, args.seconds))
        close()
    return rows


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ("router", "scenario", "words", "decisions", "p50, ms", "p99, ms", "CPU, ms", "per second", "bound", "holds")
    rows = []
    for row in (Row(**{k: v for k, v in r.items() if k != "holds"}) for r in found["rows"]):
        figure, bound = BOUNDS[row.scenario]
        said = f"p50 <= {bound:g} ms" if figure == "p50_ms" else f">= {bound:g}/s"
        figures = (row.p50_ms, row.p99_ms, row.cpu_ms, row.per_second)
        holds = "yes" if row.holds else "no"
        rows.append((row.router, row.scenario, f"{row.words:.0f}", f"{row.decisions:,}", *figures, said, holds))
    return (
        f"{markdown(head, rows)}\n{found['stored']:,} stored examples beyond the encoder; {found['threads']} torch "
        f"threads, batches of at most {found['batch']}, {CONCURRENCY} callers.\n\n{one_line(found['environment'])}\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, write JSON and table; 1 if a bound is broken."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.decision_latency", description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    p.add_argument("--threads", type=int, default=1, help="routing.score_threads")
    p.add_argument("--batch", type=int, default=16, help="routing.score_batch")
    p.add_argument("--stored", type=int, default=STORED, help="examples of the routers beyond the encoder")
    p.add_argument("--kinds", nargs="*", default=list(ENCODER_KINDS), help="encoder routers")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    stamp = environment()
    with tempfile.TemporaryDirectory() as name, threadpool_limits(args.threads):  # as Ray limits a Gateway
        folder = Path(name)
        rows = [*feature_rows(folder, args), *encoder_rows(folder, args), *stored_rows(folder, args)]
    found = {
        "environment": stamp,
        "threads": args.threads,
        "batch": args.batch,
        "stored": args.stored,
        "rows": [{**{n: getattr(r, n) for n in Row.__slots__}, "holds": r.holds} for r in rows],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "decision_latency.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "decision_latency.md").write_text(table(found), "utf-8")
    print(table(found))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
