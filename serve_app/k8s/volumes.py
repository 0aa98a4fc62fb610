"""Volumes of worker pods, the claims to make, and the init container that looks for what is missing.

A replica that needs no GPU may be placed on any pod, so every worker pod has the same volumes.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from serve_app.config import Config
from serve_app.config.kubernetes import ClaimConfig
from serve_app.k8s.delivery import ARTEFACTS_PATH, LOG_PATH, STATE_PATH, WEIGHTS_PATH, required_paths
from serve_app.k8s.prepare import TOKEN
from serve_app.k8s.stopping import FRONT_FOLDER, PROGRAMS

POD: Final = "JETHRO_POD"
"""Environment variable with the pod's name, after which its folder for the decision log is named."""
ARTEFACTS_SECRET: Final = "jethro-artefacts"  # noqa: S105 - a name
PREPARE: Final = "serve_app.k8s.prepare"
LOCKED: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""The security context of every container."""


def volumes(config: Config) -> list[dict[str, Any]]:
    """The volumes of a worker pod."""
    options = config.kubernetes
    found: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": "jethro-config"}},
        {"name": "state"} | (_claim(options.state.claim) if options.state else {"emptyDir": {}}),
        {"name": "front", "emptyDir": {}},
    ]
    if options.weights:
        found.append({"name": "weights"} | _claim(options.weights.claim, read_only=options.weights.read_only))
    if options.artefacts:
        claim = options.artefacts.claim
        found.append({"name": "artefacts"} | (_claim(claim, read_only=True) if claim else {"emptyDir": {}}))
    return found


def _claim(name: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name} | ({"readOnly": True} if read_only else {})}


def mounts(config: Config) -> list[dict[str, Any]]:
    """The mounts of the Ray container."""
    front = {"name": "front", "mountPath": str(PurePosixPath(FRONT_FOLDER).parent)}
    return [{"name": "config", "mountPath": "/etc/jethro", "readOnly": True}, *_content(config), front]


def _content(config: Config) -> list[dict[str, Any]]:
    options = config.kubernetes
    found: list[dict[str, Any]] = [{"name": "state", "mountPath": STATE_PATH}]
    if options.state:
        # SQLite's file must not be written by two machines: each pod has a folder of its own on the claim
        found.append({"name": "state", "mountPath": LOG_PATH, "subPathExpr": f"decisions/$({POD})"})
    if options.weights:
        mount: dict[str, Any] = {"name": "weights", "mountPath": WEIGHTS_PATH}
        found.append(mount | ({"readOnly": True} if options.weights.read_only else {}))
    if options.artefacts:
        found.append({"name": "artefacts", "mountPath": ARTEFACTS_PATH, "readOnly": True})
    return found


def pod_variables(config: Config) -> list[dict[str, Any]]:
    """Environment that mounts refer to."""
    field = {"name": POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return [field] if config.kubernetes.state else []


def init_containers(config: Config, extras: Sequence[str], image: str) -> list[dict[str, Any]]:
    """`prepare`: looks for the extras in the image, loads your archive, and looks for every folder that is named."""
    command = [f"{PROGRAMS}/python", "-P", "-m", PREPARE, "--extras", ",".join(extras)]
    artefacts = config.kubernetes.artefacts
    env = pod_variables(config)
    if artefacts and artefacts.url and artefacts.sha256:
        command += ["--url", artefacts.url, "--sha256", artefacts.sha256, "--into", ARTEFACTS_PATH]
        env.append(from_secret(TOKEN, ARTEFACTS_SECRET, "token", optional=True))
    for path in required_paths(config):
        command += ["--path", path]
    resources = {"cpu": "500m", "memory": "512Mi"}
    loaded = [m if m["name"] != "artefacts" or not artefacts or artefacts.claim else _writable(m)
              for m in _content(config)]  # fmt: skip
    return [
        {
            "name": "prepare",
            "image": image,
            "command": command,
            **({"env": env} if env else {}),
            "resources": {"requests": resources, "limits": dict(resources)},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": dict(LOCKED),
            "volumeMounts": loaded,
        }
    ]


def _writable(mount: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mount.items() if key != "readOnly"}


def claims(config: Config) -> list[dict[str, Any]]:
    """The claims to make; those without a size exist already."""
    options = config.kubernetes
    labels = {"app.kubernetes.io/part-of": "jethro"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim.claim, "labels": dict(labels)},
            "spec": _size(claim),
        }
        for claim in (options.weights, options.state)
        if claim is not None and claim.size_gib is not None
    ]


def _size(claim: ClaimConfig) -> dict[str, Any]:
    """Pods of several nodes mount it, and a rolling update has an old and a new one."""
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": f"{claim.size_gib}Gi"}},
    }
    return spec | ({"storageClassName": claim.storage_class} if claim.storage_class else {})


def from_secret(env: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    """An environment variable whose value is in a Secret."""
    reference: dict[str, Any] = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": env, "valueFrom": {"secretKeyRef": reference}}
