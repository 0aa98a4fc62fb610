"""Rules for the pods of a RayService: containers, resources, ports, secrets, and how they stop."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from serve_app.k8s.stopping import grace_of, stop_mistakes

T = TypeVar("T")
_FORM = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|)$")
_FACTORS = {"": Decimal(1), "m": Decimal("0.001")}
_FACTORS |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTP", 1)}
_FACTORS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", 1)}


def quantity(value: object) -> float | None:
    """`500m` is 0.5 and `4Gi` is 4 × 2**30; None if it is no quantity."""
    found = _FORM.match(str(value))
    return None if found is None else float(Decimal(found[1]) * _FACTORS[found[2]])


_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_HEAD_FLOOR_GIB = 5


def repeated(names: Sequence[T]) -> list[T]:
    """The names that occur more than once, sorted by their text."""
    return sorted({name for name in names if names.count(name) > 1}, key=str)


def pods_of(body: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """How messages call a group, the container's name that KubeRay's samples use, and the pod template."""
    cluster = body["spec"]["rayClusterConfig"]
    found = [("head group", "ray-head", cluster["headGroupSpec"]["template"])]
    groups = cluster.get("workerGroupSpecs", [])
    return [*found, *((f"worker group {g['groupName']}", "ray-worker", g["template"]) for g in groups)]


def variables(template: dict[str, Any]) -> dict[str, str | None]:
    """The Ray container's environment; None for values from a Secret or another reference."""
    env = template["spec"]["containers"][0].get("env", [])
    return {e["name"]: e.get("value") if "valueFrom" not in e else None for e in env}


def pod_mistakes(body: dict[str, Any]) -> Iterator[str]:
    """Sentences on every pod template, and on what head and workers must have in common."""
    pods = pods_of(body)
    for where, container, template in pods:
        yield from _pod(where, container, template)
    shared = [{k: v for k, v in variables(t).items() if k.startswith("RAY_")} for _, _, t in pods]
    for (where, _, _), env in zip(pods, shared, strict=True):
        differing = sorted(k for k in env.keys() | shared[0].keys() if env.get(k) != shared[0].get(k))
        if differing:
            yield f"{where}: env {', '.join(differing)} differs from the head's; Serve needs the same everywhere"
    delay = body["spec"].get("rayClusterDeletionDelaySeconds", 60)
    longest = max(grace_of(template) for _, _, template in pods)
    if delay < longest:
        yield f"spec.rayClusterDeletionDelaySeconds {delay}: below the grace period of {longest:g} s; raise it"


def _pod(where: str, name: str, template: dict[str, Any]) -> Iterator[str]:
    spec = template["spec"]
    container = spec["containers"][0]
    if container["name"] != name:
        yield f"{where}: the first container is the Ray container and must be called {name}, not {container['name']}"
    if spec.get("restartPolicy", "Never") != "Never":
        yield f"{where}: restartPolicy {spec['restartPolicy']}: the autoscaler v2 takes Never, or none"
    if spec.get("securityContext", {}).get("runAsNonRoot") is not True:
        yield f"{where}: securityContext.runAsNonRoot must be true"
    for each in (container, *spec.get("initContainers", [])):
        yield from _image(where, str(each.get("image", "")))
    yield from _ports(where, container.get("ports", []))
    yield from _resources(where, name, container.get("resources", {}))
    yield from _secrets(where, container.get("env", []))
    yield from _mounts(where, spec, container)
    yield from stop_mistakes(where, template)


def _image(where: str, image: str) -> Iterator[str]:
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield f"{where}: image {image!r} says no version; give a tag other than latest"


def _ports(where: str, ports: list[dict[str, Any]]) -> Iterator[str]:
    names = [port.get("name", "") for port in ports]
    for name in names:
        if not re.fullmatch(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", name):
            yield f"{where}: port name {name!r}: at most 15 of a-z, 0-9 and -, with a letter"
    yield from (f"{where}: port name {name!r} is given twice" for name in repeated(names))
    if ("serve", 8000) not in [(p.get("name"), p.get("containerPort")) for p in ports]:
        yield f"{where}: no port serve 8000; network policies and services refer to it by name"


def _resources(where: str, name: str, resources: dict[str, Any]) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for what in ("cpu", "memory"):
        if what not in limits:
            yield f"{where}: resources.limits.{what}: missing; Ray takes what it may use from it"
    if quantity(requests.get("memory", limits.get("memory"))) != quantity(limits.get("memory")):
        yield f"{where}: memory request {requests.get('memory')} and limit {limits.get('memory')} must be equal"
    for what, value in requests.items():
        request, limit = quantity(value), quantity(limits.get(what, value))
        if request is not None and limit is not None and request > limit:
            yield f"{where}: resources.requests.{what} {value} is above its limit {limits[what]}"
        if what.endswith("gpu") and what not in limits:
            yield f"{where}: resources.requests.{what} without a limit: the autoscaler reads limits alone; add it there"
    for what, value in limits.items():
        if what.endswith("gpu") and what in requests and quantity(requests[what]) != quantity(value):
            yield f"{where}: {what} request {requests[what]} and limit {value} must be equal"
    memory = quantity(limits.get("memory")) or 0.0
    if name == "ray-head" and 0 < memory < _HEAD_FLOOR_GIB * 2**30:
        yield f"{where}: memory {limits['memory']}: heads run out of memory below {_HEAD_FLOOR_GIB}Gi"


def _secrets(where: str, env: list[dict[str, Any]]) -> Iterator[str]:
    for variable in env:
        if _SECRET.search(variable["name"]) and "valueFrom" not in variable:
            yield f"{where}: env {variable['name']}: a secret in a manifest; refer to a Secret with secretKeyRef"
    yield from (f"{where}: env {name} is given twice" for name in repeated([e["name"] for e in env]))


def _mounts(where: str, spec: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    mounts = [mount for c in (container, *spec.get("initContainers", [])) for mount in c.get("volumeMounts", [])]
    missing = list(dict.fromkeys(mount["name"] for mount in mounts if mount["name"] not in volumes))
    yield from (f"{where}: volumeMount {name}: no volume of that name" for name in missing)
