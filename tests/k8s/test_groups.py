"""Pools to worker groups: shapes, bounds, and that the check finds a place for whatever was rendered."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.config import Config
from serve_app.errors import ConfigError
from serve_app.k8s.pods import WorkerGroup, environment, worker_group, worker_groups
from serve_app.k8s.render import in_cluster, serve_config
from serve_app.k8s.rules.pods import pods_of
from serve_app.k8s.serve_config import serving_mistakes
from serve_app.k8s.stopping import grace_s, lifecycle, stop_mistakes


def pool(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "engine": {"kind": "transformers", "path": "lab:small"}, **more}


def gpu(model: str, gpus: float, **more: Any) -> dict[str, Any]:
    more.setdefault("resources", {"num_cpus": 2, "num_gpus": gpus, "memory_gib": 20})
    return {"model": model, "engine": {"kind": "vllm", "path": "x"}, **more}


def config(small: dict[str, Any], large: dict[str, Any], **more: Any) -> Config:
    server = {"keys": [{"name": "default", "env": "JETHRO_KEY"}]}
    labels = {"accelerators": {"L4": {"gpu": "l4"}}}
    tree = {"server": server, "pools": {"small": small, "large": large}, "kubernetes": labels}
    return Config.model_validate(tree | more)


def test_what_needs_no_gpu_shares_a_group_with_one_pod_to_spare() -> None:
    found = worker_groups(config(pool("a", replicas={"min": 1, "max": 4}), pool("b", replicas={"min": 0, "max": 3})))
    # at most 7 replicas of 0.4 CPUs and a Gateway of 0.2: two pods of 2 CPUs, and one more
    assert found == [WorkerGroup("cpu", 2, 4, least=1, most=3)]


def test_a_pool_with_gpus_has_pods_cut_to_its_replica() -> None:
    large = gpu("b", 4, replicas={"min": 0, "max": 2}, resources={"num_cpus": 8, "num_gpus": 4, "memory_gib": 100})
    found = worker_groups(config(gpu("a", 1, replicas={"min": 1, "max": 3}), large))
    assert [(g.name, g.cpus, g.gpus, g.memory_gib, g.least, g.most) for g in found] == [
        ("cpu", 2, 0, 4, 1, 2),
        ("small", 2, 1, 21, 1, 3),
        ("large", 8, 4, 101, 0, 2),
    ]


def test_replicas_that_share_a_gpu_share_a_pod() -> None:
    found = worker_groups(config(gpu("a", 0.5, replicas={"min": 3, "max": 5}), pool("b")))
    assert [(g.name, g.cpus, g.gpus, g.memory_gib, g.least, g.most) for g in found[1:]] == [("small", 4, 1, 41, 2, 3)]


def test_remote_pools_have_no_pods() -> None:
    remote = {"model": "b", "engine": {"kind": "openai", "urls": ["http://x/v1"]}, "replicas": {"min": 1, "max": 50}}
    assert worker_groups(config(pool("a"), remote)) == [WorkerGroup("cpu", 2, 4, least=1, most=2)]


def test_stated_nodes_bind_gpu_groups_by_their_labels() -> None:
    nodes = [{"cpus": 8, "memory_gib": 32}, {"cpus": 8, "memory_gib": 64, "gpus": 1, "labels": {"gpu": "l4"}}]
    found = worker_groups(config(gpu("a", 1), pool("b"), cluster={"nodes": nodes}))
    assert [g.node_labels for g in found] == [{}, {"gpu": "l4"}]


def test_a_pod_that_no_node_holds_is_refused_though_the_replica_alone_would_fit() -> None:
    nodes = [{"cpus": 4, "memory_gib": 20, "gpus": 1}]
    with pytest.raises(ConfigError, match=r"group small .*2 CPUs, 1 GPUs, 21 GiB"):
        worker_groups(config(gpu("a", 1), pool("b"), cluster={"nodes": nodes}))


def test_an_accelerator_has_nodes() -> None:
    wanted = gpu("a", 1, resources={"num_cpus": 2, "num_gpus": 1, "accelerator_type": "L4"})
    assert [g.node_labels for g in worker_groups(config(wanted, pool("b")))] == [{}, {"gpu": "l4"}]
    with pytest.raises(
        ConfigError, match=r"worker group small: accelerator_type L4: no labels say which nodes have it"
    ):
        worker_groups(config(wanted, pool("b"), kubernetes={}))
    nodes = [{"cpus": 8, "gpus": 1, "accelerator_type": "L4"}, {"cpus": 8}]
    with pytest.raises(ConfigError, match=r"kubernetes\.accelerators\.L4"):
        worker_groups(config(wanted, pool("b"), kubernetes={}, cluster={"nodes": nodes}))


def body_of(wanted: Config) -> dict[str, Any]:
    """A RayService as far as the rules on its config and on how its pods stop look at it."""
    inside = in_cluster(wanted)
    head = {"name": "ray-head", "env": environment(inside, head=True), "lifecycle": lifecycle(inside)}
    head["volumeMounts"] = [{"name": "front", "mountPath": "/run/jethro"}]
    volumes = [{"name": "front", "emptyDir": {}}]
    template = {"spec": {"containers": [head], "terminationGracePeriodSeconds": grace_s(inside), "volumes": volumes}}
    groups = [worker_group(group, inside) for group in worker_groups(inside)]
    cluster = {"headGroupSpec": {"template": template}, "workerGroupSpecs": groups}
    return {"spec": {"serveConfigV2": yaml.safe_dump(serve_config(inside)), "rayClusterConfig": cluster}}


replicas = st.tuples(st.integers(0, 3), st.integers(0, 4)).map(lambda b: {"min": b[0], "max": max(sum(b), 1)})
resources = st.fixed_dictionaries(
    {"num_cpus": st.sampled_from([0.1, 0.4, 1, 2.5, 7]), "memory_gib": st.sampled_from([None, 0.5, 3, 40])}
)
devices = st.sampled_from([0, 0.25, 0.5, 1, 2, 8])
kinds = st.sampled_from([None, "L4"])


@st.composite
def pools(draw: st.DrawFn, model: str) -> dict[str, Any]:
    asked: dict[str, Any] = draw(resources)
    if gpus := draw(devices):
        asked |= {"num_gpus": gpus, "accelerator_type": draw(kinds)}
        return gpu(model, gpus, replicas=draw(replicas), resources=asked)
    return pool(model, replicas=draw(replicas), resources=asked)


@settings(max_examples=20, deadline=None)
@given(pools("a"), pools("b"), st.integers(1, 5), st.floats(1, 300))
def test_whatever_is_rendered_has_a_place_for_every_replica(
    small: dict[str, Any], large: dict[str, Any], gateways: int, drain: float
) -> None:
    wanted = config(small | {"drain_s": drain}, large, gateway={"replicas": gateways})
    body = body_of(wanted)
    assert list(serving_mistakes(body)) == []
    assert [said for where, _, template in pods_of(body) for said in stop_mistakes(where, template)] == []
    for group in worker_groups(in_cluster(wanted)):
        assert 0 <= group.least <= group.most and group.most >= 1


def test_the_path_of_the_schemas_notice() -> None:
    folder = Path(__file__).parents[2] / "serve_app" / "k8s" / "schemas"
    assert "Apache License 2.0" in (folder / "NOTICE.md").read_text()
