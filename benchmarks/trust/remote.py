"""Endpoints whose pools are one small fake upstream: started in seconds, since no model runs on the machine."""

import sys
from typing import Any

from benchmarks.process import Server, free_port


def upstream(name: str) -> Server:
    """The upstream, not started yet; `url_of` names its address."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.gateway.upstream:build"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    return Server(name, [*command, *options], f"http://127.0.0.1:{port}/health")


def url_of(server: Server) -> str:
    """What a pool's `urls` names."""
    return f"{server.ready_url.removesuffix('/health')}/v1"


def tree(url: str, *, model: str = "fake", threshold: float = 0.5, **branches: Any) -> dict[str, Any]:
    """A config with both pools at the upstream; `branches` are its other parts. Models are MODEL-small, MODEL-large."""
    pools = {
        name: {
            "model": f"{model}-{name}",
            "engine": {"kind": "openai", "urls": [url]},
            "price": {"input_usd_per_million": price, "output_usd_per_million": price},
        }
        for name, price in (("small", 0.1), ("large", 1.0))
    }
    return {"pools": pools, "routing": {"router": "complexity", "threshold": threshold}, **branches}
