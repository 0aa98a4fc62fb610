"""Rules for what worker pods are given: claims, the init container, the folders that the config names, and nodes."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from serve_app.config import Config
from serve_app.k8s.delivery import nowhere, path_mistakes
from serve_app.k8s.documents import Document
from serve_app.k8s.extras import required_extras, uncovered
from serve_app.k8s.rules.pods import pods_of
from serve_app.k8s.volumes import PREPARE

Template = Mapping[str, Any]


def delivery_mistakes(body: dict[str, Any], config: Config, claims: Sequence[Document]) -> Iterator[str]:
    """Sentences on every worker pod. `config` is the served one with the options of Kubernetes."""
    extras = required_extras(config, nowhere)
    for where, _, template in pods_of(body)[1:]:
        command = prepare_command(template)
        yield from _prepared(where, command, extras, config)
        lost = list(_unpacked(where, command, template))
        yield from lost
        if command is not None and not lost:
            filled = [*config.kubernetes.image_paths, *_filled(template)]
            yield from path_mistakes(where, config, filled, _own(template))
    yield from _claims(body, config, claims)
    yield from _pull_secrets(body, config)
    yield from _nodes(body)


def prepare_command(template: Template) -> list[str] | None:
    """The words of the init container that looks for what is missing, from its module on; None without one."""
    command = _words(_preparing(template))
    return command[command.index(PREPARE) + 1 :] if command else None


def _preparing(template: Template) -> Mapping[str, Any]:
    """The init container that runs the module; empty without one."""
    found = [c for c in template["spec"].get("initContainers", []) if PREPARE in _words(c)]
    return found[0] if found else {}


def _words(container: Mapping[str, Any]) -> list[str]:
    return [*container.get("command", []), *container.get("args", [])]


def _options(command: Sequence[str], name: str) -> list[str]:
    """The values of an option, which may be repeated."""
    return [value for option, value in pairwise(command) if option == name]


def _prepared(where: str, command: list[str] | None, extras: list[str], config: Config) -> Iterator[str]:
    if command is None:
        yield f"{where}: no init container runs {PREPARE}, which says what an image or a claim lacks: render again"
        return
    given = ",".join(_options(command, "--extras"))
    if missing := uncovered(extras, given.split(",")):
        yield f"{where}: the config needs the extra {', '.join(missing)}, and --extras says {given}: render again"
    artefacts = config.kubernetes.artefacts
    if artefacts is None or artefacts.url is None:
        return
    if (_options(command, "--url"), _options(command, "--sha256")) != ([artefacts.url], [artefacts.sha256]):
        yield f"{where}: the init container does not load kubernetes.artefacts.url with its sha256: render again"


def _unpacked(where: str, command: list[str] | None, template: Template) -> Iterator[str]:
    """The folder that the init container unpacks into is one volume, which the Ray container sees as well."""
    for folder in _options(command or [], "--into"):
        mounted = [m for m in _preparing(template).get("volumeMounts", []) if m["mountPath"] == folder]
        filled = [m["name"] for m in mounted if not m.get("readOnly")]
        seen = [m["name"] for m in _mounts(template) if m["mountPath"] == folder]
        if not filled or filled != seen:
            yield f"{where}: what the init container unpacks into {folder} is in no volume of the Ray container there"


def _mounts(template: Template) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = template["spec"]["containers"][0].get("volumeMounts", [])
    return found


def _volumes(template: Template) -> dict[str, dict[str, Any]]:
    return {volume["name"]: volume for volume in template["spec"].get("volumes", [])}


def _filled(template: Template) -> list[str]:
    """Folders with what the operator has put there: whole claims, and what the init container unpacks."""
    volumes = _volumes(template)
    claims = [m for m in _mounts(template) if "persistentVolumeClaim" in volumes.get(m["name"], {})]
    found = [m["mountPath"] for m in claims if "subPathExpr" not in m]
    return found + _options(prepare_command(template) or [], "--into")


def _own(template: Template) -> list[str]:
    """Folders that no other pod writes in."""
    volumes = _volumes(template)
    return [m["mountPath"] for m in _mounts(template) if "subPathExpr" in m or "emptyDir" in volumes.get(m["name"], {})]


def _claims(body: dict[str, Any], config: Config, documents: Sequence[Document]) -> Iterator[str]:
    options = config.kubernetes
    there = {c.claim for c in (options.weights, options.state) if c is not None and c.size_gib is None}
    there |= {options.artefacts.claim} if options.artefacts and options.artefacts.claim else set()
    made = {document.name: document for document in documents}
    mounted: dict[str, int] = {}
    groups = body["spec"]["rayClusterConfig"].get("workerGroupSpecs", [])
    for group, (where, _, template) in zip(groups, pods_of(body)[1:], strict=True):
        for name, volume in _volumes(template).items():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is None:
                continue
            if claim not in made and claim not in there:
                yield (
                    f"{where}: claim {claim} is neither among the objects nor in kubernetes.weights, state or "
                    "artefacts as one that exists: give it a size_gib, or name it there"
                )
            writes = not volume["persistentVolumeClaim"].get("readOnly") and any(
                m["name"] == name and not m.get("readOnly") for m in _mounts(template)
            )
            mounted[claim] = mounted.get(claim, 0) + (group.get("maxReplicas", 1) if writes else 0)
    for claim, pods in mounted.items():
        modes = made[claim].body["spec"].get("accessModes", []) if claim in made else ["ReadWriteMany"]
        if pods > 1 and "ReadWriteMany" not in modes:
            yield (
                f"{made[claim]}: up to {pods} pods write to it, and accessModes {', '.join(modes)} allow the pods of "
                "one node: set ReadWriteMany"
            )


def _pull_secrets(body: dict[str, Any], config: Config) -> Iterator[str]:
    expected = set(config.kubernetes.image_pull_secrets)
    for where, _, template in pods_of(body):
        given = {secret["name"] for secret in template["spec"].get("imagePullSecrets", [])}
        if missing := sorted(expected - given):
            yield f"{where}: imagePullSecrets lack {', '.join(missing)} of kubernetes.image_pull_secrets: render again"


def _nodes(body: dict[str, Any]) -> Iterator[str]:
    for group in body["spec"]["rayClusterConfig"].get("workerGroupSpecs", []):
        kinds = [k.partition(":")[2] for k in group.get("resources", {}) if k.startswith("accelerator_type:")]
        spec = group["template"]["spec"]
        if kinds and not spec.get("nodeSelector") and not spec.get("affinity", {}).get("nodeAffinity"):
            yield (
                f"worker group {group['groupName']}: its pods claim an accelerator {kinds[0]} on whatever node they "
                f"get: set nodeSelector, by labels in cluster.nodes or kubernetes.accelerators.{kinds[0]}"
            )
