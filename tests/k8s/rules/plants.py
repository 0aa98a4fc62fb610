"""Changes of good manifests, for tests to plant mistakes with."""

from collections.abc import Callable
from typing import Any

import yaml

from serve_app.k8s.documents import Document
from serve_app.k8s.rules.pods import pods_of
from tests.k8s.manifests import one

Plant = Callable[[list[Document]], Any]


def service(found: list[Document]) -> dict[str, Any]:
    return one(found, "RayService").body


def cluster(found: list[Document]) -> dict[str, Any]:
    inside: dict[str, Any] = service(found)["spec"]["rayClusterConfig"]
    return inside


def group(found: list[Document], name: str = "small") -> dict[str, Any]:
    return next(g for g in cluster(found)["workerGroupSpecs"] if g["groupName"] == name)


def pod(found: list[Document], name: str = "small") -> dict[str, Any]:
    spec: dict[str, Any] = group(found, name)["template"]["spec"]
    return spec


def container(found: list[Document], name: str = "small") -> dict[str, Any]:
    inside: dict[str, Any] = pod(found, name)["containers"][0]
    return inside


def serve(change: Callable[[dict[str, Any]], Any]) -> Plant:
    def plant(found: list[Document]) -> None:
        spec = service(found)["spec"]
        tree = yaml.safe_load(spec["serveConfigV2"])
        change(tree)
        spec["serveConfigV2"] = yaml.safe_dump(tree)

    return plant


def application(change: Callable[[dict[str, Any]], Any]) -> Plant:
    return serve(lambda tree: change(tree["applications"][0]))


def config(change: Callable[[dict[str, Any]], Any]) -> Plant:
    return application(lambda app: change(app["args"]["config"]))


def renamed(tree: dict[str, Any], old: str, new: str) -> None:
    tree[new] = tree.pop(old)


def without_env(found: list[Document], name: str) -> None:
    for g in cluster(found)["workerGroupSpecs"]:
        env = g["template"]["spec"]["containers"][0]["env"]
        env[:] = [e for e in env if e["name"] != name]


def front(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The token's variable of one group's container."""
    return lambda found: change(next(e for e in container(found)["env"] if e["name"] == "JETHRO_FRONT_TOKEN"))


def hook(*words: str) -> Plant:
    """The words of one group's preStop hook after its module."""

    def plant(found: list[Document]) -> None:
        command = container(found)["lifecycle"]["preStop"]["exec"]["command"]
        command[command.index("serve_app.front.control") + 1 :] = words

    return plant


def env_everywhere(found: list[Document], name: str, value: str | None) -> None:
    for _, _, template in pods_of(service(found)):
        env = template["spec"]["containers"][0]["env"]
        env[:] = [e for e in env if e["name"] != name] + ([] if value is None else [{"name": name, "value": value}])


def remove(found: list[Document], kind: str, name: str | None = None) -> None:
    found.remove(one(found, kind, name))


def env_value(found: list[Document], name: str, value: str) -> None:
    env = container(found)["env"]
    env[:] = [e for e in env if e["name"] != name] + [{"name": name, "value": value}]


def options(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The config's `kubernetes`, which the ConfigMap alone has."""

    def plant(found: list[Document]) -> None:
        data = one(found, "ConfigMap").body["data"]
        tree = yaml.safe_load(data["jethro.yaml"])
        change(tree["kubernetes"])
        data["jethro.yaml"] = yaml.safe_dump(tree)

    return plant


def everywhere(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The pod spec of every worker group."""
    return lambda found: [change(template["spec"]) for _, _, template in pods_of(service(found))[1:]]


def prepare(*words: str) -> Plant:
    """The init container's words from the option on that `words` begin with."""

    def change(spec: dict[str, Any]) -> None:
        command = spec["initContainers"][0]["command"]
        at = command.index(words[0])
        command[at : at + len(words)] = words

    return everywhere(change)


def served(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The config in both places."""

    def plant(found: list[Document]) -> None:
        config(change)(found)
        data = one(found, "ConfigMap").body["data"]
        tree = yaml.safe_load(data["jethro.yaml"])
        change(tree)
        data["jethro.yaml"] = yaml.safe_dump(tree)

    return plant


def mounts(change: Callable[[list[dict[str, Any]]], Any]) -> Plant:
    return everywhere(lambda spec: change(spec["containers"][0]["volumeMounts"]))


def egress(found: list[Document], policy: str) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = one(found, "NetworkPolicy", policy).body["spec"]["egress"]
    return rules
