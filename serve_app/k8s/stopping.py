"""How a pod stops, and how long each part may take.

1. The preStop hook pauses until the pod is an endpoint of no service (Kubernetes removes it at the same time).
2. The hook drains the front: HAProxy accepts nothing more, and answers that have begun are finished.
3. SIGTERM: Ray drains the node. Serve stops its replicas, each with its own drain, while other pods take over.
4. Ray's processes end.

The hook ends early if nothing is open, and so does Ray's drain. The grace period covers all four.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serve_app.config import Config

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""Ray's variable of the third part."""
RAY_DRAIN_S = 30.0
"""Ray's own where DRAIN is not set."""
FRONT_FOLDER = "/run/jethro/front"
"""HAProxy's configuration, sockets and state, in a volume of the pod alone. The front closes it to other users."""
PROGRAMS = "/opt/jethro/bin"
"""Where our images have their programs."""
_PAUSE_S = 5
_STOP_S = 15
"""From the end of the drain to the end of Ray's processes."""
_KUBERNETES_GRACE_S = 30
_HOOK = "serve_app.front.control"
_PAUSE = "--after"


def drains(config: Config) -> dict[str, float]:
    """Seconds that replicas finish their requests in, by the key of the config."""
    pools = {f"pools.{name}.drain_s": pool.drain_s for name, pool in config.pools.items() if not pool.remote}
    return {"gateway.drain_s": config.gateway.drain_s, **pools}


def front_drain_s(config: Config) -> int:
    """How long the front finishes what is open: an answer may take as long as the slowest replica drains."""
    return math.ceil(max(drains(config).values()))


def ray_drain_s(config: Config) -> int:
    """How long Ray waits for replicas on SIGTERM: longer than any of them drains."""
    pools = [pool.drain_s + 10 for pool in config.pools.values() if not pool.remote]
    return math.ceil(max([config.gateway.drain_s, *pools])) + 10


def grace_s(config: Config) -> int:
    """A pod's grace period: the four parts one after the other."""
    return _PAUSE_S + front_drain_s(config) + ray_drain_s(config) + _STOP_S


def lifecycle(config: Config) -> dict[str, Any]:
    """The Ray container's `lifecycle`."""
    hook = [f"{PROGRAMS}/python", "-P", "-m", _HOOK, FRONT_FOLDER, str(front_drain_s(config)), _PAUSE, str(_PAUSE_S)]
    return {"preStop": {"exec": {"command": hook}}}


def hook_times(command: Sequence[str]) -> tuple[float, float] | None:
    """Pause and drain of a preStop hook in seconds; None if it does not drain the front after a pause."""
    if _HOOK not in command:
        return None
    given = command[command.index(_HOOK) + 1 :]
    try:
        _, drain, option, pause = given
        return (float(pause), float(drain)) if option == _PAUSE else None
    except ValueError:
        return None


def hook_folder(command: Sequence[str]) -> str:
    """The folder of a hook for which `hook_times` has found times."""
    return command[command.index(_HOOK) + 1]


def hook_of(template: Mapping[str, Any]) -> list[str]:
    """The command of the Ray container's preStop hook; empty if there is none."""
    hook = template["spec"]["containers"][0].get("lifecycle", {}).get("preStop", {})
    found: list[str] = hook.get("exec", {}).get("command", [])
    return found


def grace_of(template: Mapping[str, Any]) -> float:
    """A pod's grace period as Kubernetes takes it, seconds."""
    return float(template["spec"].get("terminationGracePeriodSeconds", _KUBERNETES_GRACE_S))


def ray_drain_of(template: Mapping[str, Any]) -> float:
    """How long Ray waits for running requests in a pod that is terminated, seconds."""
    env: Iterable[dict[str, Any]] = template["spec"]["containers"][0].get("env", [])
    values = [variable.get("value") for variable in env if variable["name"] == DRAIN]
    return float(values[0]) if values and values[0] is not None else RAY_DRAIN_S


def stop_mistakes(where: str, template: Mapping[str, Any]) -> list[str]:
    """Sentences on how the pod stops."""
    command = hook_of(template)
    if "ray stop" in " ".join(command):
        return [f"{where}: preStop runs `ray stop`, which cuts answers short; drain the front instead: render again"]
    times = hook_times(command)
    if times is None or not times[0] > 0:
        return [
            f"{where}: no preStop that pauses and then drains the front: endpoints drop the pod first, then HAProxy "
            "must finish what is open; render again"
        ]
    needed = sum(times) + ray_drain_of(template)
    if grace_of(template) > needed:
        return []
    return [
        f"{where}: terminationGracePeriodSeconds {grace_of(template):g} must be above the preStop's pause and drain "
        f"and Ray's drain, {needed:g} s together; otherwise answers are cut off"
    ]
