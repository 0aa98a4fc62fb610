"""Kustomize folders from the one config: what depends on the pools is written, everything else is in the base."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from serve_app.config import Config
from serve_app.config.kubernetes import KubernetesConfig
from serve_app.deployments.scaling import SHARE_POLICY, share_limits
from serve_app.errors import ConfigError, writing
from serve_app.k8s.delivery import Keys, delivered, elsewhere, own_artefacts, weights, with_values
from serve_app.k8s.documents import build
from serve_app.k8s.egress import policies
from serve_app.k8s.entrances import GATEWAY_CLASS, ingress_values, scrape_target
from serve_app.k8s.extras import required_extras
from serve_app.k8s.pods import CONFIG_PATH, LABELS, WorkerGroup, environment, pull_secrets, worker_group, worker_groups
from serve_app.k8s.stopping import grace_s, lifecycle
from serve_app.k8s.volumes import claims
from serve_app.routing.serving.scoring_service import required_replicas

OVERLAYS = {"cpu": "laptop", "gpu": "scarce-gpus", "ha": "high-availability"}
"""Overlay to the component that makes it."""
COMPONENTS = ("auth", "ingress")
"""Components that any overlay may add."""
PORT = 8000
_TARGET = {"group": "ray.io", "version": "v1", "kind": "RayService", "name": "jethro"}
_HEADER = "# Written by `jethro k8s render` from {source}; change that, and render again.\n"
_DELETION_DELAY_S = 300
_METRICS_KEY_ENV = "JETHRO_METRICS_KEY"
"""Where the config names none: the base has Prometheus scrape with a key."""


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """Options of a folder to render; `image` with its tag, None for the base's own."""

    overlay: str = "cpu"
    components: tuple[str, ...] = ()
    image: str | None = None
    source: str = "jethro.yaml"

    def __post_init__(self) -> None:
        if self.overlay not in OVERLAYS:
            raise ConfigError(f"no overlay {self.overlay!r}: choose one of {', '.join(OVERLAYS)}")
        for name in self.components:
            if name not in COMPONENTS:
                raise ConfigError(f"no component {name!r}: choose of {', '.join(COMPONENTS)}")
        if self.image is not None and (":" not in self.image.rpartition("/")[2] or self.image.endswith(":latest")):
            raise ConfigError(f"image {self.image!r}: give a tag other than latest, for instance jethro:0.1.0")


def render(config: Config, options: RenderOptions, tree: str) -> dict[str, str]:
    """File names to texts of a kustomize folder; `tree` is the relative path from it to the folder that holds base/.

    Raises ConfigError where the config cannot be served on Kubernetes, or not by this overlay.
    """
    inside = in_cluster(config)
    if options.overlay == "ha":
        _two_of_everything(inside)
    groups = worker_groups(inside, spread=2 if options.overlay == "ha" else 1)
    objects: dict[str, list[Any]] = {
        "config.yaml": [_config_map(inside)],
        "disruption.yaml": [_budget(group) for group in groups if group.least],
        "network.yaml": policies(inside),
        "claims.yaml": claims(inside),
    }
    files = {name: documents for name, documents in objects.items() if documents}
    application = [_application(inside, groups, required_extras(config))]
    files |= {
        "kustomization.yaml": [_kustomization(options, tree, list(files), inside)],
        "application.yaml": application,
    }
    header = _HEADER.format(source=options.source)
    return {name: header + yaml.dump_all(docs, Dumper=_Dumper, **_STYLE) for name, docs in files.items()}


def in_cluster(config: Config) -> Config:
    """The config as it holds inside pods: on all their addresses, and with its state on a volume.

    Raises ConfigError if it names no keys and does not say that keys are not required, or for a folder that does not
    reach the pods.
    """
    tree = config.model_dump(mode="json", exclude_unset=True)
    # the pod's addresses, behind network policies
    tree["server"] = {"metrics_key_env": _METRICS_KEY_ENV} | tree.get("server", {}) | {"host": "0.0.0.0", "port": PORT}  # noqa: S104
    with_values(tree, delivered(config))
    if config.scorer.replicas is None and not elsewhere(config) and (scorers := required_replicas(config)):
        tree.setdefault("scorer", {})["replicas"] = scorers  # as the router here says; the groups make room for it
    if not config.server.keys and not config.server.allow_unauthenticated:
        raise ConfigError(
            "server.keys: missing; pods are open to other machines: add keys: [{name: default, env: JETHRO_KEY}], or "
            "set server.allow_unauthenticated: true if a proxy in front checks keys"
        )
    if free := [demand.who for demand in config.demands() if not demand.cpus and not demand.gpus]:
        raise ConfigError(f"{free[0]}: 0 CPUs could be placed on the head, which has no keys: give it a share of a CPU")
    return Config.model_validate(tree)


def serve_config(config: Config) -> dict[str, Any]:
    """The Serve config of a config as it holds on every node; what only manifests need is left out."""
    application: dict[str, Any] = {
        "name": "jethro",
        "route_prefix": "/",
        "import_path": "serve_app.deployments:build",
        "args": {"config": {key: value for key, value in _tree(config).items() if key != "kubernetes"}},
    }
    if any(share_limits(pool) for pool in config.pools.values()):
        application["autoscaling_policy"] = {"policy_function": SHARE_POLICY}
    return {
        "proxy_location": "EveryNode",
        "http_options": {
            "host": config.server.host,
            "port": config.server.port,
            "keep_alive_timeout_s": 120,
            # a little above our own limit, whose error says more
            "request_timeout_s": config.limits.request_timeout_s + 10,
        },
        "applications": [application],
    }


def cluster_file(config: Config, source: str) -> str:
    """A Serve config file for any Ray cluster, with what its nodes need as comments; paths are made absolute.

    Raises ConfigError for an address beyond localhost without keys.
    """
    tree = _tree(config)
    paths: dict[Keys, str] = {("store", "path"): config.store.path, ("routing", "registry"): config.routing.registry}
    paths |= {("streams", "folder"): config.streams.folder} if config.streams.enabled else {}
    paths |= {named.keys: named.path for named in [*own_artefacts(config), *weights(config)]}
    # a replica's working directory is the node's, not that of this command
    with_values(tree, {keys: os.path.abspath(path) for keys, path in paths.items()})
    secrets = [f"# {env}: {used}" for env, used in config.secrets().items()]
    lines = [
        f"# Written by `jethro serve-config {source}`; change that file, and write this one again.",
        "# serve deploy --address http://HEAD:8265 THIS-FILE. Folders that it names must be on every node.",
        "# Set on every node before Ray starts there, besides the variables in deploy/cluster.md:",
        *(secrets or ["# no secrets"]),
    ]
    text: str = yaml.dump(serve_config(Config.model_validate(tree)), Dumper=_Dumper, **_STYLE)
    return "\n".join(lines) + "\n" + text


def _tree(config: Config) -> dict[str, Any]:
    tree: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    return tree


def _application(config: Config, groups: list[WorkerGroup], extras: list[str]) -> list[dict[str, Any]]:
    """A JSON patch of the base's RayService."""
    head = "/spec/rayClusterConfig/headGroupSpec/template/spec"
    grace = grace_s(config)
    values = {
        "/spec/serveConfigV2": yaml.dump(serve_config(config), Dumper=_Dumper, **_STYLE),
        "/spec/rayClusterDeletionDelaySeconds": max(_DELETION_DELAY_S, 2 * grace),
        f"{head}/terminationGracePeriodSeconds": grace,
        f"{head}/containers/0/env": environment(config, head=True),
        f"{head}/containers/0/lifecycle": lifecycle(config),
        "/spec/rayClusterConfig/workerGroupSpecs": [worker_group(group, config, extras) for group in groups],
    }
    if config.kubernetes.image_pull_secrets:
        values[f"{head}/imagePullSecrets"] = pull_secrets(config)
    return [{"op": "add", "path": path, "value": value} for path, value in values.items()]


def _config_map(config: Config) -> dict[str, Any]:
    """For `jethro` commands in the pods and for `jethro k8s check`; Serve has the same tree but for `kubernetes`."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "jethro-config", "labels": dict(LABELS)},
        "data": {Path(CONFIG_PATH).name: yaml.dump(_tree(config), Dumper=_Dumper, **_STYLE)},
    }


def _budget(group: WorkerGroup) -> dict[str, Any]:
    """Of several pods one may be evicted at a time; a single one stays until the operator deletes it on purpose."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"jethro-{group.name}", "labels": dict(LABELS)},
        "spec": {
            "minAvailable": max(group.least - 1, 1),
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": LABELS | {"ray.io/group": group.name}},
        },
    }


def _kustomization(options: RenderOptions, tree: str, files: list[str], config: Config) -> dict[str, Any]:
    components = [OVERLAYS[options.overlay], *_components(options, config)]
    folder: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": config.kubernetes.namespace,
        "resources": [f"{tree}/base", *files],
        "components": [f"{tree}/components/{name}" for name in components],
        "patches": [{"path": "application.yaml", "target": _TARGET}, *_patches(options, config)],
    }
    if options.image is not None:
        name, _, tag = options.image.rpartition(":")
        folder["images"] = [{"name": "jethro", "newName": name, "newTag": tag}]
    return folder


def _components(options: RenderOptions, config: Config) -> list[str]:
    """The components to add; the ingress comes with its options."""
    ingress = config.kubernetes.ingress
    if ingress is None and "ingress" in options.components:
        raise ConfigError(
            "component ingress: set kubernetes.ingress.host in the config to the name in your certificate"
        )
    if ingress is not None and options.overlay == "ha":
        raise ConfigError(
            "kubernetes.ingress: overlay ha moves callers by the Gateway jethro-gateway: remove it, and route the host "
            "to that Gateway"
        )
    added = ["ingress"] if ingress is not None and "ingress" not in options.components else []
    return [*options.components, *added]


def _patches(options: RenderOptions, config: Config) -> Iterator[dict[str, Any]]:
    """What of base and components depends on the namespace and on the ingress' options."""
    scraped = scrape_target("jethro", config.kubernetes.namespace, GATEWAY_CLASS if options.overlay == "ha" else None)
    yield _patch("ScrapeConfig", "jethro-gateways", {"/spec/staticConfigs": [{"targets": [scraped]}]})
    chosen, base = config.kubernetes, KubernetesConfig()
    if chosen.prometheus.release != base.prometheus.release:
        for kind in ("PodMonitor", "ScrapeConfig", "PrometheusRule"):
            yield _patch(kind, None, {"/metadata/labels/release": chosen.prometheus.release})
    if chosen.prometheus.namespace != base.prometheus.namespace:
        yield _from_namespace("jethro-monitoring", chosen.prometheus.namespace)
    if options.overlay == "ha" and chosen.redis_host != base.redis_host:
        yield _patch("Service", "jethro-redis", {"/spec/externalName": chosen.redis_host})
    if chosen.ingress is not None:
        yield _patch("Ingress", "jethro", ingress_values(config))
        yield _from_namespace("jethro-ingress", chosen.ingress.controller_namespace)


def _from_namespace(policy: str, namespace: str) -> dict[str, Any]:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return _patch("NetworkPolicy", policy, {"/spec/ingress/0/from": [peer]})


def _patch(kind: str, name: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """A JSON patch of the object of that name, or of all of the kind."""
    operations = [{"op": "replace", "path": path, "value": value} for path, value in values.items()]
    target = {"kind": kind} | ({} if name is None else {"name": name})
    return {"target": target, "patch": yaml.dump(operations, Dumper=_Dumper, **_STYLE)}


def _two_of_everything(config: Config) -> None:
    few = [] if config.gateway.replicas >= 2 else [f"gateway.replicas is {config.gateway.replicas}"]
    for name, pool in config.pools.items():
        # without vectors chat is answered all the same
        if not pool.remote and not pool.embeds and pool.replicas.min < 2:
            few.append(f"pools.{name}.replicas.min is {pool.replicas.min}")
    if few:
        raise ConfigError(f"overlay ha keeps two of everything, and {', '.join(few)}: raise to 2")


_STYLE: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 110}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, equal parts written out, lists indented as people write them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def written(config: Config, options: RenderOptions, tree: Path | None, folder: Path) -> list[str]:
    """Write a kustomize folder; the names of its files.

    Base and components are copied into it, so that it stands alone; with `tree`, a folder that holds them, it refers to
    that by a relative path. Raises ConfigError if `tree` holds no base.
    """
    _base(tree)
    relative = "." if tree is None else os.path.relpath(tree.resolve(), folder.resolve())
    files = render(config, options, relative)
    with writing(folder, "give another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in _PARTS if tree is None else ():
            shutil.copytree(_shipped() / name, folder / name, dirs_exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
    return [*files, *(f"{name}/" for name in _PARTS if tree is None)]


def printed(config: Config, options: RenderOptions, tree: Path | None) -> str:
    """The objects as one YAML stream. Raises ConfigError as `written` and `kustomize.build` do."""
    _base(tree)
    # a copy, since kustomize takes folders by relative paths only and the tree may be read-only
    with tempfile.TemporaryDirectory(prefix="jethro-k8s-") as folder:
        for name in _PARTS:
            shutil.copytree((tree or _shipped()) / name, Path(folder) / name)
        written(config, options, Path(folder), Path(folder) / "overlay")
        return build(Path(folder) / "overlay")


_PARTS = ("base", "components")


def _shipped() -> Path:
    """The folder of base and components that comes with the package."""
    return Path(str(resources.files("serve_app.k8s"))) / "kustomize"


def _base(tree: Path | None) -> None:
    if tree is not None and not (tree / "base" / "kustomization.yaml").is_file():
        raise ConfigError(
            f"{tree}: no base/kustomization.yaml in it; without --tree, base and components come with the package"
        )
