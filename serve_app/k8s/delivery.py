"""Folders that a config names, and how they reach pods: in the image, on a claim, or unpacked by an init container.

Routers, chains and cascade routers of your own are packed under fixed names (`jethro k8s pack`), so that a config names
the same folders on every machine. Weights are too large for that: they are in the image, on a claim, or downloaded.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from serve_app.config import Config
from serve_app.config.engines import ENCODER, OpenAISettings
from serve_app.errors import ConfigError, reading
from serve_app.routing.reference import split_reference
from serve_app.routing.registry import Registry, router_names

STATE_PATH: Final = "/var/lib/jethro"
WEIGHTS_PATH: Final = f"{STATE_PATH}/models"
LOG_PATH: Final = f"{STATE_PATH}/log"
"""The decision log, where the state is on a claim: a folder of the pod's own."""
ARTEFACTS_PATH: Final = "/var/lib/jethro-artefacts"
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ROUTER = re.compile(r"[a-z0-9_]{1,64}")
REGISTRIES: Final = ("routing.registry", "adapters.registry")
"""Folders that serving reads and the command line writes to."""
Keys = tuple[str, ...]
IsDir = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Named:
    """A folder that a config names by `key`; `packed`: its name in the archive."""

    key: str
    path: str
    packed: str

    @property
    def keys(self) -> Keys:
        """The key, part by part."""
        return tuple(self.key.split("."))


def nowhere(path: str) -> bool:
    """As `is_dir`, for a config as it holds in pods: what is on this machine says nothing of them."""
    return False


def own_artefacts(config: Config, is_dir: IsDir = os.path.isdir) -> list[Named]:
    """The folders of routers, chains and ensembles that serving reads, without those that ship with the package."""
    found = [Named("routing.registry", config.routing.registry, "routers")] if _own_routers(config) else []
    if (router := config.routing.router) and is_folder(config, router, is_dir):
        found.append(Named("routing.router", split_reference(router)[0], "router"))
    chains = {
        "cascade.chain": (config.cascade.chain, "chain"),
        "cascade.streaming.chain": (config.cascade.streaming.chain, "streaming-chain"),
        "cascade.routing": (config.cascade.routing, "cascade-router"),
    }
    found += [Named(key, path, packed) for key, (path, packed) in chains.items() if path is not None]
    if config.routing.best_of is not None and (ranker := config.routing.best_of.ranker) is not None:
        found.append(Named("routing.best_of.ranker", ranker, "best-of-ranker"))
    if (tasks := config.orchestration.classifier) is not None:
        found.append(Named("orchestration.classifier", tasks, "task-classifier"))
    if serves_adapters(config) and _folder_names(config.adapters.registry):
        found.append(Named("adapters.registry", config.adapters.registry, "adapters"))
    ensemble = config.ensemble.folders
    return found + [Named(f"ensemble.{key}", path, f"ensemble-{key}") for key, path in ensemble.items()]


def serves_adapters(config: Config) -> bool:
    """Whether a pool serves LoRA adapters."""
    return any(getattr(pool.engine, "adapters", None) is not None for pool in config.pools.values())


def _registries(config: Config) -> list[str]:
    return [config.routing.registry, *([config.adapters.registry] if serves_adapters(config) else [])]


def _folder_names(path: str) -> list[str]:
    folder = Path(path)
    return [f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")] if folder.is_dir() else []


def is_folder(config: Config, router: str, is_dir: IsDir = os.path.isdir) -> bool:
    """Whether `routing.router` is a folder; a registered name goes before a folder of that name, as in serving."""
    source, _ = split_reference(router)
    if source in Registry(Path(config.routing.registry)).names():
        return False
    return not _ROUTER.fullmatch(source) or is_dir(source)


def _own_routers(config: Config) -> bool:
    """Whether the registry holds routers here, or the config names one that does not ship."""
    registry = Registry(Path(config.routing.registry))
    return set(registry.names()) > set(router_names()) or bool(unshipped(config))


def unshipped(config: Config, is_dir: IsDir = os.path.isdir) -> dict[str, str]:
    """Names of routers in the config that do not ship with the package, by key."""
    routing, race = config.routing, config.cascade.streaming.race
    named = {f"routing.offered ({name})": name for name in routing.offered or ()}
    if routing.router and not is_folder(config, routing.router, is_dir):
        named["routing.router"] = split_reference(routing.router)[0]
    if routing.multi_pool:
        named["routing.multi_pool.router"] = routing.multi_pool.router
    if race:
        named["cascade.streaming.race.router"] = race.router
    return {key: name for key, name in named.items() if name not in router_names()}


def elsewhere(config: Config) -> bool:
    """Whether the chosen router reaches the pods and is not on this machine, so that nothing is known of it here."""
    router = config.routing.router or Registry(Path(config.routing.registry)).default()
    if router is None or (config.kubernetes.artefacts is None and config.kubernetes.state is None):
        return False
    source, _ = split_reference(router)
    if is_folder(config, router):
        return not Path(source).is_dir()
    return not Path(config.routing.registry).is_dir() and source not in router_names()


def weights(config: Config, is_dir: IsDir = os.path.isdir) -> list[Named]:
    """Folders of models that local pools name; ids of the model hub and embedded models are none."""
    found = []
    for name, pool in config.pools.items():
        engine, key = pool.engine, f"pools.{name}.engine"
        if isinstance(engine, OpenAISettings) or engine.path == ENCODER:
            continue
        if _local(engine.path, is_dir):
            found.append(Named(f"{key}.path", engine.path, ""))
    return found


def _local(path: str, is_dir: IsDir) -> bool:
    """Whether a model's path is a folder; `owner/name` is an id unless there is such a folder here."""
    return not path.startswith("lab:") and (not _HUB.fullmatch(path) or path.startswith(".") or is_dir(path))


def delivered(config: Config) -> dict[Keys, str]:
    """New values of keys, as they hold inside pods.

    Raises ConfigError for a folder that does not reach the pods, with what to do.
    """
    options = config.kubernetes
    changed: dict[Keys, str] = {}
    kept = [("store.path", config.store.path), ("routing.registry", config.routing.registry)]
    kept += [("streams.folder", config.streams.folder)] if config.streams.enabled else []
    kept += [("adapters.registry", config.adapters.registry)] if serves_adapters(config) else []
    for key, path in kept:
        if not os.path.isabs(path):
            folder = LOG_PATH if key == "store.path" and options.state else STATE_PATH
            changed[tuple(key.split("."))] = f"{folder}/{Path(path).name}"
    for named in own_artefacts(config):
        _check_priors(config, named)
        if any(below(named.path, place) for place in _provided(config)):
            changed.pop(named.keys, None)
        elif options.artefacts is not None:
            changed[named.keys] = f"{ARTEFACTS_PATH}/{named.packed}{_version(config, named)}"
        elif named.key in REGISTRIES and options.state:
            continue  # on the claim, where routers and adapters are registered or copied to
        else:
            raise ConfigError(_undelivered(config, named))
    for named in weights(config):
        if not any(below(named.path, place) for place in _provided(config)):
            raise ConfigError(
                f"{named.key}: {named.path} is a folder of this machine and not in the image: copy it to the claim of "
                f"kubernetes.weights and write {WEIGHTS_PATH}/{Path(named.path).name}, or put it into an image of your "
                "own and name its folder in kubernetes.image_paths"
            )
    return changed


def _version(config: Config, named: Named) -> str:
    """What follows the folder of a router in a reference to one version."""
    router = config.routing.router if named.key == "routing.router" else None
    version = split_reference(router)[1] if router else None
    return "" if version is None else f"@{version}"


def _check_priors(config: Config, named: Named) -> None:
    """Raises ConfigError for a chain on the scores of a router that is only a folder of this machine."""
    for file in () if named.key.startswith("routing.") else Path(named.path).glob("*.json"):
        with reading(file, "fit it again", ValueError):
            references = list(_routers_in(json.loads(file.read_bytes())))
        for source in {split_reference(reference)[0] for reference in references}:
            if not _ROUTER.fullmatch(source) and not any(below(source, place) for place in _provided(config)):
                raise ConfigError(
                    f"{named.key}: {file} reads the scores of the router in {source}, a folder of this machine that is "
                    "not in the image: register it (`jethro router train --name NAME` does), and collect and fit with "
                    "its name"
                )


def _routers_in(body: object) -> Iterator[str]:
    """Every reference to a router in a saved chain: the signals that read its score have it, at any depth."""
    if isinstance(body, list):
        for each in body:
            yield from _routers_in(each)
    elif isinstance(body, dict):
        if isinstance(router := body.get("router"), str):
            yield router
        for each in body.values():
            yield from _routers_in(each)


def required_paths(config: Config) -> list[str]:
    """Folders that must be there before a pod with this config may start."""
    found = [named.path for named in [*own_artefacts(config, nowhere), *weights(config, nowhere)]]
    found += [path for path in _registries(config) if below(path, ARTEFACTS_PATH)]
    return sorted(set(found))


def _undelivered(config: Config, named: Named) -> str:
    names = ", ".join(f"{key}: {name}" for key, name in unshipped(config).items())
    why = f" ({names} is a router of your own)" if named.key == "routing.registry" and names else ""
    return (
        f"{named.key}: {named.path} is a folder of this machine and not in the image{why}: pack it with `jethro k8s "
        "pack`, and set kubernetes.artefacts to the archive's url and sha256 or to a claim; or put it into an image of "
        "your own and name its folder in kubernetes.image_paths"
    )


def _provided(config: Config) -> list[str]:
    """Folders of pods that hold what the operator has put there."""
    options = config.kubernetes
    places = [ARTEFACTS_PATH] if options.artefacts else []
    places += [WEIGHTS_PATH] if options.weights else []
    places += [STATE_PATH] if options.state else []
    return [*options.image_paths, *places]


def below(path: str, folder: str) -> bool:
    """Whether an absolute path is the folder or in it."""
    inside = PurePosixPath(os.path.normpath(path))
    return inside.is_absolute() and (PurePosixPath(folder) == inside or PurePosixPath(folder) in inside.parents)


def path_mistakes(where: str, config: Config, filled: Sequence[str], own: Sequence[str]) -> Iterator[str]:
    """Sentences on the paths of a served config in a pod.

    `filled`: its folders with what the operator has put there, image included; `own`: those of the pod alone.
    """
    named = [n for n in own_artefacts(config, nowhere) if n.key not in REGISTRIES] + weights(config, nowhere)
    for folder in named:
        if not any(below(folder.path, place) for place in filled):
            yield (
                f"{where}: {folder.key}: {folder.path} is neither on a claim, nor unpacked by an init container, nor "
                "below kubernetes.image_paths: the pod has no such folder; render again"
            )
    registry = config.routing.registry
    if not any(below(registry, place) for place in filled):
        for key, name in unshipped(config, nowhere).items():
            yield (
                f"{where}: {key}: {name} does not ship with Jethro, and the registry {registry} is empty when the pod "
                "starts: set kubernetes.artefacts or kubernetes.state"
            )
    written = {"store.path": config.store.path, "routing.registry": registry}
    written |= {"streams.folder": config.streams.folder} if config.streams.enabled else {}
    written |= {"adapters.registry": config.adapters.registry} if serves_adapters(config) else {}
    for key, path in written.items():
        if not os.path.isabs(path):
            yield f"{where}: {key}: {path} is relative to a folder that the image decides on; render again"
    if os.path.isabs(config.store.path) and not any(below(config.store.path, place) for place in own):
        yield (
            f"{where}: store.path: {config.store.path} is not in a volume of this pod alone; two pods that write one "
            f"SQLite file damage it: mount {LOG_PATH} by subPathExpr, or use an emptyDir"
        )


def with_values(tree: dict[str, Any], values: Mapping[Keys, str]) -> dict[str, Any]:
    """The tree of a config with values set; `tree` itself is changed."""
    for (*branch, last), value in values.items():
        node = tree
        for part in branch:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
