"""Worker pods: the environment of every Ray pod, the grace periods, and a worker group's template."""

import math
from typing import Any

from serve_app.config import Config
from serve_app.config.engines import OpenAIEngine, VllmEngine
from serve_app.config.environment import SERVE_ENVIRONMENT
from serve_app.k8s.groups import WorkerGroup

IMAGE = "jethro:0.1.0"
LABELS = {"app.kubernetes.io/part-of": "jethro"}
CALLER_KEYS, UPSTREAM_KEYS, MODEL_HUB = "jethro-keys", "jethro-upstream-keys", "jethro-model-hub"
"""Secrets by name. Their keys: tenants; environment variables; `token`. None of them is ever written here."""
CONFIG_PATH = "/etc/jethro/jethro.yaml"
STATE_PATH = "/var/lib/jethro"
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
PRE_STOP_S = 5
"""Until endpoints and HAProxy have dropped the pod; nothing is stopped before."""
_STOP_S = 15
"""From the end of the drain to the end of Ray's processes."""
_LATENCY_MS = "5,10,25,50,100,250,500,1000,2500,5000,10000,30000,60000,120000,300000,600000"


def drain_s(config: Config) -> int:
    """How long Ray waits for replicas on SIGTERM: longer than any of them drains."""
    pools = [pool.drain_s + 10 for pool in config.pools.values() if not pool.remote]
    return math.ceil(max([config.gateway.drain_s, *pools])) + 10


def grace_s(config: Config) -> int:
    """A pod's grace period: preStop, drain and stop one after the other."""
    return PRE_STOP_S + drain_s(config) + _STOP_S


def environment(config: Config) -> list[dict[str, Any]]:
    """The same for head and workers; secrets by reference only."""
    plain = SERVE_ENVIRONMENT | {
        DRAIN: str(drain_s(config)),
        "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": _LATENCY_MS,
        "RAY_DASHBOARD_MAX_EVENTS_TO_CACHE": "2000",
        "JETHRO_CONFIG": CONFIG_PATH,
        "HF_HOME": f"{STATE_PATH}/models",
    }
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    env += [_from_secret(key.env, CALLER_KEYS, key.name) for key in config.server.keys]
    engines = [pool.engine for pool in config.pools.values()]
    upstream = {engine.api_key_env for engine in engines if isinstance(engine, OpenAIEngine) and engine.api_key_env}
    env += [_from_secret(name, UPSTREAM_KEYS, name) for name in sorted(upstream)]
    if any(isinstance(engine, VllmEngine) for engine in engines):
        env.append(_from_secret("HF_TOKEN", MODEL_HUB, "token", optional=True))
    return env


def worker_group(group: WorkerGroup, config: Config) -> dict[str, Any]:
    """An entry of workerGroupSpecs."""
    spec: dict[str, Any] = {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "rayStartParams": {},
    }
    if group.accelerator_type:
        # Trouble: not learned from a pod that is not there yet (kuberay #863). Where any is told, all must be
        spec["resources"] = {
            "CPU": str(group.cpus),
            "GPU": str(group.gpus),
            "memory": str(group.memory_gib * 2**30),
            f"accelerator_type:{group.accelerator_type}": "1",
        }
    spec["template"] = {"metadata": {"labels": dict(LABELS)}, "spec": _pod(group, config)}
    return spec


def _pod(group: WorkerGroup, config: Config) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "serviceAccountName": "jethro-worker",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": grace_s(config),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": LABELS | {"ray.io/group": group.name}},
            }
        ],
        "containers": [_container(group, config)],
        "volumes": [
            {"name": "config", "configMap": {"name": "jethro-config"}},
            {"name": "state", "emptyDir": {}},
        ],
    }
    if group.node_labels:
        pod["nodeSelector"] = group.node_labels
    if group.gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(group: WorkerGroup, config: Config) -> dict[str, Any]:
    # limits = requests: Ray takes its logical CPUs and memory from the limits, and the autoscaler the GPUs
    resources = {"cpu": str(group.cpus), "memory": f"{group.memory_gib}Gi"}
    if group.gpus:
        resources["nvidia.com/gpu"] = str(group.gpus)
    return {
        "name": "ray-worker",
        "image": IMAGE,
        "env": environment(config),
        "ports": [{"containerPort": 8000, "name": "serve"}, {"containerPort": 8080, "name": "metrics"}],
        "resources": {"requests": resources, "limits": dict(resources)},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_S)]}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/jethro", "readOnly": True},
            {"name": "state", "mountPath": STATE_PATH},
        ],
    }


def _from_secret(env: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    reference: dict[str, Any] = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": env, "valueFrom": {"secretKeyRef": reference}}
