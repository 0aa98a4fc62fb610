"""Twelve adapters under a cache for four: hit rate, latency of hit and miss, and what affinity gains.

Each adapter is trained here, in seconds, to answer every prompt with a word of its own, so that each of the answers
shows which adapter wrote it. Requests choose adapters by Zipf's law; the ranks are shuffled. The engines run in this
process, each a replica behind its own HTTP port as in service; requests go through the pool's client, which picks the
replica and follows their reports. Ray, the Gateway and the router are left out: they do not differ between the rows.

`affinity` is the way of service; `load alone` picks by power of two choices, and does not know who holds what. Both run
on fresh replicas, in turn, with the same requests.

python -m benchmarks.adapters
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import uvicorn

from benchmarks.stamp import environment, one_line
from benchmarks.stats import median, percentile
from benchmarks.table import markdown
from serve_app.adapters.base_model import known_base
from serve_app.adapters.registry import AdapterRegistry
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.pools import PoolConfig
from serve_app.engines.app import build_replica_app
from serve_app.engines.factory import build_engine
from serve_app.lab import models_dir
from serve_app.pools.directory import Discovery, ReplicaReport
from serve_app.pools.factory import build_pool
from serve_app.pools.http import HttpPool
from serve_app.types import REQUEST_ID, Message, Query, Sampling
from serve_app.wire.frames import Call

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
BASE = "lab:small"
SECRET = "benchmark"
REPORT_S = 1.0
"""How often replicas report, as in service."""
STEPS, ROWS = 600, 24
LEAST_LOSS, LEAST_STEPS = 0.001, 20
"""Training ends after so many steps with so little loss; each step has prompts of its own."""
NOTE = (
    "Latency is from the request to the whole answer, at the client. A *hit* found its adapter in memory; a *miss* "
    "waited for a place, for the load, or for another request's load of the same adapter. These adapters are small and "
    "load in milliseconds: most of a miss is the wait until a place is free."
)


@dataclass
class Run:
    """One pass over the requests. Latencies in seconds."""

    wrong: int = 0
    failed: int = 0
    hits: list[float] = field(default_factory=list)
    misses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    loads: int = 0
    evictions: int = 0
    by_replica: Counter[str] = field(default_factory=Counter)

    def row(self) -> dict[str, Any]:
        """What is reported."""
        answered = len(self.hits) + len(self.misses)
        return {
            "answered": answered,
            "failed": self.failed,
            "wrong": self.wrong,
            "hit_rate": len(self.hits) / max(1, answered),
            "hit_p50_ms": 1e3 * percentile(self.hits, 50),
            "hit_p95_ms": 1e3 * percentile(self.hits, 95),
            "miss_p50_ms": 1e3 * percentile(self.misses, 50),
            "miss_p95_ms": 1e3 * percentile(self.misses, 95),
            "per_second": answered / self.seconds,
            "loads": self.loads,
            "evictions": self.evictions,
        }


def train_word(folder: Path, word: str, seed: int) -> float:
    """An adapter of the lab's small model that answers `word` to anything; returns the last loss."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    path = models_dir() / BASE.removeprefix("lab:")
    tokenizer, base = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    steps = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    rng, loss, good = random.Random(seed), torch.tensor(0.0), 0
    answer = [*tokenizer(word, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    for _ in range(STEPS):
        ids, labels = _rows(tokenizer, [prompt(rng) for _ in range(ROWS)], answer)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        steps.step()
        steps.zero_grad()
        good = good + 1 if loss < LEAST_LOSS else 0
        if good == LEAST_STEPS:
            break
    model.save_pretrained(folder)
    return float(loss.detach())


def _rows(tokenizer: Any, prompts: Sequence[str], answer: list[int]) -> Any:
    """Token ids and labels, padded on the right; only the answer is learned."""
    import torch

    rows = []
    for text in prompts:
        chat = [{"role": "user", "content": text}]
        read = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        rows.append(tokenizer(read, add_special_tokens=False).input_ids)
    width = max(map(len, rows)) + len(answer)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        end = len(row) + len(answer)
        ids[i, :end] = torch.tensor(row + answer)
        labels[i, len(row) : end] = torch.tensor(answer)
    return ids, labels


def prompt(rng: random.Random) -> str:
    """A query as the lab's tasks have them."""
    a, b, c = (rng.randrange(100) for _ in range(3))
    forms = (
        f"what is {a} + {b}?", f"sort {a} {b} {c}", f"reverse {a * 1000 + b}", f"which is larger, {a} or {b}?",
        f"what is {a} - {b} + {c}?", f"how many days are {a} weeks?",
    )  # fmt: skip
    return rng.choice(forms)


def zipf_requests(n: int, adapters: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """(adapter, prompt), the adapter of rank k with probability proportional to 1 / k."""
    rng = random.Random(seed)
    order = rng.sample(list(adapters), len(adapters))
    weights = [1 / k for k in range(1, len(order) + 1)]
    return [(name, prompt(rng)) for name in rng.choices(order, weights, k=n)]


class _Server(uvicorn.Server):
    """Leaves signals to the benchmark: a second server's handlers would end the first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Replica:
    """One engine behind a port of this process, as a pool's replica has it."""

    def __init__(self, pool: PoolConfig, registry: AdaptersConfig) -> None:
        self.engine: Any = build_engine("small", pool, registry)
        self.hit: dict[str, bool] = {}
        """By request id, whether the adapter was in memory."""

    async def start(self) -> None:
        """Load the model and listen."""
        await self.engine.start()
        figures = self.engine._figures.adapters
        counted = figures.used

        def used(*, hit: bool) -> None:
            self.hit[str(REQUEST_ID.get())] = hit
            counted(hit=hit)

        figures.used = used
        app = build_replica_app(self.engine, secret=SECRET)
        self.admission = app.admission
        options = uvicorn.Config(app, port=0, http="httptools", lifespan="off", log_config=None, access_log=False)
        self.server = _Server(options)
        self.serving = asyncio.get_running_loop().create_task(self.server.serve())
        while not self.server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/v1"

    def report(self) -> ReplicaReport:
        """What PoolReplica.describe says."""
        held = self.engine.health().adapters
        return ReplicaReport(self.address, self.admission.open, self.admission.queued, adapters=held)

    def count(self, name: str) -> int:
        """A counter of the engine."""
        start = f"jethro_engine_adapter_{name}_total{{"
        return int(float(next(x for x in self.engine.metrics().splitlines() if x.startswith(start)).split()[-1]))

    async def stop(self) -> None:
        """Close the port and the engine."""
        self.server.should_exit = True
        await self.serving
        await self.engine.aclose()


@asynccontextmanager
async def serving(replicas: int, settings: PoolConfig, registry: AdaptersConfig) -> AsyncIterator[tuple[HttpPool, Any]]:
    """A pool's client over fresh replicas, which it follows."""
    members = [Replica(settings, registry) for _ in range(replicas)]
    for member in members:
        await member.start()
    pool = build_pool("small", settings, cluster_secret=SECRET, timeout_s=120)

    async def discover() -> Discovery:
        return Discovery([member.report() for member in members])

    pool.directory.update((await discover()).reports)
    following = asyncio.get_running_loop().create_task(pool.directory.follow(discover, every_s=REPORT_S))
    try:
        yield pool, members
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await pool.aclose()
        for member in members:
            await member.stop()


async def drive(pool: HttpPool, members: Sequence[Replica], requests: Sequence[tuple[str, str]], at_once: int) -> Run:
    """Send all requests, `at_once` open at any time, and check every answer."""
    found, queue = Run(), list(enumerate(requests))[::-1]

    async def client() -> None:
        while queue:
            i, (adapter, text) = queue.pop()
            query = Query((Message("user", text),), Sampling(max_tokens=12, temperature=0.0), adapter=adapter)
            began = perf_counter()
            try:
                answer = await pool.complete(query, Call(id=f"id-{i}", request_id=f"request-{i}", created_s=1))
            except Exception as e:
                print(f"request {i} for {adapter}: {e}", file=sys.stderr)
                found.failed += 1
                continue
            seconds = perf_counter() - began
            said = answer.parsed["choices"][0]["message"]["content"]
            if said != adapter:
                print(f"request {i} for {adapter}: {text!r} was answered {said!r}", file=sys.stderr)
                found.wrong += 1
            at = next(m for m in members if f"request-{i}" in m.hit)
            found.by_replica[at.address] += 1
            (found.hits if at.hit[f"request-{i}"] else found.misses).append(seconds)

    began = perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    found.seconds = perf_counter() - began
    found.loads, found.evictions = (sum(m.count(name) for m in members) for name in ("loads", "evictions"))
    return found


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train the adapters, then every case `rounds` times in turn; the row of a case is its run of median hit rate."""
    registry = AdaptersConfig(registry=str(folder / "registry"))
    base = known_base(BASE)
    losses = {}
    for seed, word in enumerate(WORDS[: args.adapters]):
        losses[word] = train_word(folder / word, word, seed)
        AdapterRegistry(registry).add(folder / word, name=word, base=base.name, task=f"answers {word}")
    print(f"trained: largest loss {max(losses.values()):.4f}", file=sys.stderr, flush=True)
    engine = {"kind": "transformers", "path": BASE, "adapters": {"max_loaded": args.places}}
    settings = PoolConfig.model_validate({"model": "jlab-small", "engine": engine})
    cases = [("1 replica", 1, True), ("2 replicas, affinity", 2, True), ("2 replicas, load alone", 2, False)]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in cases}

    async def case(replicas: int, affinity: bool, requests: Sequence[tuple[str, str]]) -> Run:
        async with serving(replicas, settings, registry) as (pool, members):
            pool.directory.affinity = affinity
            return await drive(pool, members, requests, args.concurrency)

    for turn in range(args.rounds):
        requests = zipf_requests(args.n, WORDS[: args.adapters], seed=turn)
        for name, replicas, affinity in cases:
            row = asyncio.run(case(replicas, affinity, requests)).row()
            print(name, row, file=sys.stderr, flush=True)
            runs[name].append(row)
    return {"cases": {name: _typical(rows) for name, rows in runs.items()}, "runs": runs, "losses": losses}


def _typical(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs; failed and wrong answers are summed."""
    summed = ("answered", "failed", "wrong", "loads", "evictions")
    return {key: (sum if key in summed else median)([row[key] for row in rows]) for key in rows[0]}


def step_times(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of a decoding step of 16 rows: the model alone, our stacked adapters, and PEFT's mixed batch.

    The least of many interleaved runs, so that other programs of the machine count little.
    """
    import copy

    import peft
    import torch

    from serve_app.config.engines import TransformersSettings
    from serve_app.engines.transformers.loading import load_model
    from serve_app.engines.transformers.lora import LoraStack, load_weights

    torch.set_num_threads(1)
    loaded = load_model(TransformersSettings(path=str(models_dir() / BASE.removeprefix("lab:"))))
    registry, found = AdapterRegistry(AdaptersConfig(registry=str(folder / "registry"))), {}
    for count in sorted({1, min(4, args.adapters), args.adapters}):
        words = WORDS[:count]
        weights = [load_weights(registry.get(w), loaded.device, loaded.model.dtype) for w in words]
        stacked, plain = copy.deepcopy(loaded.model), loaded.model
        stack = LoraStack(stacked)
        stack.select([weights[i % count] for i in range(16)])
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain), str(folder / words[0]), adapter_name=words[0])
        for word in words[1:]:
            theirs.load_adapter(str(folder / word), adapter_name=word)
        theirs.eval()
        names = [words[i % count] for i in range(16)]
        ids = torch.randint(3, 100, (16, 1))
        ways = {
            "model alone": lambda ids=ids, m=plain: m(ids, use_cache=False),
            "ours": lambda ids=ids, m=stacked: m(ids, use_cache=False),
            "PEFT": lambda ids=ids, m=theirs, n=names: m(ids, use_cache=False, adapter_names=n),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        with torch.inference_mode():
            assert torch.allclose(ways["ours"]().logits, ways["PEFT"]().logits, atol=1e-3)
            for _ in range(args.steps):
                for name, run in ways.items():
                    began = perf_counter()
                    run()
                    times[name].append(1e3 * (perf_counter() - began))
        found[str(count)] = {name: min(values) for name, values in times.items()}
    return found


def text(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["", "answered", "failed", "wrong", "hit rate, %", "hit p50, ms", "p95", "miss p50, ms", "p95"]
    head += ["answers/s", "loads", "evictions"]
    keys = ("hit_p50_ms", "hit_p95_ms", "miss_p50_ms", "miss_p95_ms", "per_second", "loads", "evictions")
    rows = [
        [name, r["answered"], r["failed"], r["wrong"], f"{100 * r['hit_rate']:.1f}", *(r[key] for key in keys)]
        for name, r in found["cases"].items()
    ]
    steps = [[n, t["model alone"], t["ours"], t["PEFT"]] for n, t in found["steps"].items()]
    about = (
        f"{found['adapters']} adapters of {BASE}, rank 8, {found['places']} places in the memory of a replica, "
        f"{found['n']:,} requests by Zipf's law at concurrency {found['concurrency']}, {found['rounds']} rounds: "
        "counts are sums, the rest medians. Every answer was compared with its adapter's word."
    )
    stepped = (
        "One decoding step of 16 rows, whose adapters are dealt evenly, ms; the least of many interleaved runs. The "
        "logits of both ways were compared."
    )
    served = f"# Adapters under a small cache\n\n{about}\n\n{markdown(head, rows)}\n{NOTE}\n\n"
    mixed = markdown(["adapters in the batch", "model alone", "ours", "PEFT"], steps)
    return f"{served}## Mixed batches\n\n{stepped}\n\n{mixed}\n{one_line(found['environment'])}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and table; 1 if an answer failed or was of another adapter."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__.splitlines()[0])
    p.add_argument("--n", type=int, default=2000, help="requests of a round")
    p.add_argument("--adapters", type=int, default=12)
    p.add_argument("--places", type=int, default=4, help="adapters that a replica holds")
    p.add_argument("--concurrency", type=int, default=16)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=200, help="runs of a decoding step")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    if not 1 <= args.adapters <= len(WORDS):
        p.error(f"--adapters {args.adapters}: give 1 to {len(WORDS)}")
    with tempfile.TemporaryDirectory() as folder:
        found = {"environment": environment(), **measured(args, Path(folder))}
        found["steps"] = step_times(args, Path(folder))
    found |= {key: getattr(args, key) for key in ("n", "adapters", "places", "concurrency", "rounds")}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "adapters.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "adapters.md").write_text(text(found), "utf-8")
    print(text(found))
    return int(any(r["failed"] or r["wrong"] for r in found["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())
