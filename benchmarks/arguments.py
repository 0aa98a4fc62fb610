"""The command line of benchmarks that ask the lab's unseen queries of an endpoint."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

_FEWEST = 100


def parser(name: str, about: str, *, n: int, concurrency: int) -> argparse.ArgumentParser:
    """What they have in common; `about` is the module's docstring, `n` and `concurrency` are the defaults."""
    p = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about.splitlines()[0])
    p.add_argument("--url", help="a running endpoint, without /v1 (default: start the lab profile)")
    p.add_argument("--n", type=int, default=n, help="unseen queries, balanced over task and size")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--weak", default="jlab-small", help="model id of the small pool")
    p.add_argument("--strong", default="jlab-large", help="model id of the large pool")
    p.add_argument("--concurrency", type=int, default=concurrency)
    p.add_argument("--api-key-env", help="environment variable that holds the key")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return p


def parsed(p: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; exits with a sentence on wrong ones."""
    args = p.parse_args(argv)
    if args.n < _FEWEST:
        p.error(f"--n {args.n}: give at least {_FEWEST}, fewer say nothing")
    if args.api_key_env and not os.environ.get(args.api_key_env):
        p.error(f"--api-key-env {args.api_key_env}: the variable is not set")
    return args
