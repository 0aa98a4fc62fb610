"""The real application on Ray Serve as a process of its own, for benchmarks that must start it themselves.

As a command: `python -m benchmarks.application CONFIG.yaml [module:function]`; it serves until SIGTERM.
"""

import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.process import BUILD, Server

PATIENCE = {"RAY_raylet_start_wait_time_s": "120", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
"""Ray gives up a start that takes longer than 30 s (a node) or 5 s (the proxy); a busy machine needs more."""
GATEWAY, SMALL, LARGE = "Gateway", "SmallPool", "LargePool"


def application(config: dict[str, Any], name: str, engine_factory: str | None = None) -> Server:
    """A server that runs the config tree; not started yet."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "benchmarks.application", str(path), *([engine_factory] if engine_factory else [])]
    return Server(name, command, f"http://127.0.0.1:{config['server']['port']}/health/ready", PATIENCE, timeout_s=300)


def profile(port: int, store: Path, *, profile: str = "lab", **pool: Any) -> dict[str, Any]:
    """A profile's tree with port and store set, and the settings in `pool` put into every pool that answers."""
    from serve_app.config import load

    tree = load(profile, env={}).model_dump(mode="json")
    tree["server"]["port"] = port
    tree["store"]["path"] = str(store)
    tree["pools"].pop("embed", None)
    for settings in tree["pools"].values():
        settings.update(pool)
    return tree


def replicas(deployment: str) -> list[psutil.Process]:
    """Processes of a deployment's replicas on this machine, oldest first."""
    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith("ray::ServeReplica:") and title.split()[0].endswith(f":{deployment}"):
            found.append(process)
    return sorted(found, key=lambda p: p.info["create_time"])


def main(argv: list[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    from serve_app.deployments.signals import held

    with held():  # before any library starts threads
        from serve_app.config import load
        from serve_app.deployments.run import run

        run(load(argv[0], env={}), engine_factory=argv[1] if len(argv) > 1 else None)


if __name__ == "__main__":
    main(sys.argv[1:])
