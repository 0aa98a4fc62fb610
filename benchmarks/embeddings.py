"""Texts per second of the encoder engine next to sentence-transformers, over the same files, in turns in one process.

python -m benchmarks.embeddings          all-MiniLM-L6-v2, texts of 12 words, two minutes on two cores

Each round gives every way new texts. sentence-transformers runs with as many torch threads as the engine has; the
engine runs with as many threads of one CPU each. Vectors of both are compared on texts of many lengths.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown

COMMON = """
the of and a to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then them
these so some her would make like him into time has look two more write go see number no way could people my than
first water been call who oil its now find long down day did get come made may part house river market doctor winter
engine letter garden planet history music report school machine language window morning
"""
WORDS = COMMON.split()


def texts_of(rng: random.Random, number: int, words: int) -> list[str]:
    """So many texts of common English words, none of them seen before."""
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(number)]


def ways(engine: Any, library: Any) -> dict[str, Callable[[list[str]], object]]:
    """How a list of texts is embedded, by name."""

    async def apart(texts: list[str], size: int) -> None:
        await asyncio.gather(*(engine.embed(texts[at : at + size]) for at in range(0, len(texts), size)))

    found: dict[str, Callable[[list[str]], object]] = {
        f"sentence-transformers, batches of {size}": lambda texts, size=size: library.encode(texts, batch_size=size)  # type: ignore[misc]
        for size in (32, 128)
    }
    found["engine, one request"] = lambda texts: asyncio.run(engine.embed(texts))
    found["engine, requests of 16 texts at once"] = lambda texts: asyncio.run(apart(texts, 16))
    found["engine, requests of 1 text at once"] = lambda texts: asyncio.run(apart(texts, 1))
    return found


def measured(args: argparse.Namespace, engine: Any, library: Any) -> list[dict[str, Any]]:
    """A row for each way: the median and all its rounds, in texts per second, and the median per CPU second."""
    rng, rates, per_cpu = random.Random(args.seed), dict[str, list[float]](), dict[str, list[float]]()
    chosen = ways(engine, library)
    for run in chosen.values():
        run(texts_of(rng, 256, args.words))
    for _ in range(args.rounds):
        for name, run in chosen.items():
            texts = texts_of(rng, args.texts, args.words)
            started, cpu = perf_counter(), process_time()
            run(texts)
            rates.setdefault(name, []).append(args.texts / (perf_counter() - started))
            per_cpu.setdefault(name, []).append(args.texts / (process_time() - cpu))
    median = statistics.median
    return [
        {"way": name, "per_s": median(rates[name]), "best_per_s": max(rates[name]), "per_cpu_s": median(per_cpu[name]),
         "rounds_per_s": [round(rate) for rate in rates[name]]}
        for name in chosen
    ]  # fmt: skip


def difference(engine: Any, library: Any, seed: int) -> float:
    """Largest difference of any number of the vectors, over texts of 1 to 300 words."""
    rng = random.Random(seed)
    texts = [text for words in range(1, 301, 3) for text in texts_of(rng, 2, words)]
    return float(np.abs(asyncio.run(engine.embed(texts)).vectors - library.encode(texts)).max())


def text(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [[r["way"], r["per_s"], r["best_per_s"], r["per_cpu_s"]] for r in found["rows"]]
    table = markdown(["way", "texts per s", "best round", "texts per CPU s"], rows)
    theirs = max(r["per_s"] for r in found["rows"] if r["way"].startswith("sentence"))
    ours = next(r["per_s"] for r in found["rows"] if r["way"] == "engine, one request")
    about = (
        f"all-MiniLM-L6-v2 in float32, {found['texts']:,} texts of {found['words']} common English words a round "
        f"({found['tokens']:.1f} tokens with the two special ones), {found['threads']} threads, medians of "
        f"{found['rounds']} rounds in which the ways took turns. One request is {ours / theirs:.2f} times "
        f"sentence-transformers at its best. Vectors of 200 texts of 1 to 300 words differ by at most "
        f"{found['difference']:.1e} from sentence-transformers {found['library']}."
    )
    return f"# Speed of embeddings\n\n{about}\n\n{table}\n{one_line(found['environment'])}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and table."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__.splitlines()[0])
    p.add_argument("--texts", type=int, default=2048)
    p.add_argument("--words", type=int, default=12)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    import sentence_transformers
    import torch

    from serve_app.config.engines import EncoderSettings
    from serve_app.engines.embedding.engine import EncoderEngine
    from serve_app.learning.encoder import encoder_folder

    stamp = environment()
    torch.set_num_threads(args.threads)
    library = sentence_transformers.SentenceTransformer(str(encoder_folder("minilm")), device="cpu")
    engine = EncoderEngine("all-minilm-l6-v2", EncoderSettings(threads=args.threads, max_waiting=max(8192, args.texts)))
    asyncio.run(engine.start())
    sample = asyncio.run(engine.embed(texts_of(random.Random(1), 512, args.words)))
    found: dict[str, Any] = {"environment": stamp, "library": sentence_transformers.__version__}
    found |= {key: getattr(args, key) for key in ("texts", "words", "rounds", "threads")}
    found |= {"tokens": sample.tokens / 512, "difference": difference(engine, library, args.seed)}
    found["rows"] = measured(args, engine, library)
    asyncio.run(engine.aclose())
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "embeddings.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "embeddings.md").write_text(text(found), "utf-8")
    print(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
