"""Configs that no machine could serve are refused with the reason, by the very command that checks a file."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config import check_file
from serve_app.errors import ConfigError

LAB: dict[str, Any] = {
    "small": {"model": "a", "engine": {"kind": "transformers", "path": "lab:small"}},
    "large": {"model": "b", "engine": {"kind": "transformers", "path": "lab:large"}},
}
GPU: dict[str, Any] = {
    "small": {"model": "a", "engine": {"kind": "vllm", "path": "x"}, "resources": {"num_cpus": 2, "num_gpus": 1}},
    "large": {
        "model": "b",
        "engine": {"kind": "vllm", "path": "y", "tensor_parallel": 4},
        "resources": {"num_cpus": 4, "num_gpus": 4, "accelerator_type": "H100"},
        "replicas": {"min": 0, "max": 2},
    },
}
NODES = [
    {"cpus": 8, "memory_gib": 32, "count": 2},
    {"cpus": 16, "memory_gib": 128, "gpus": 4, "accelerator_type": "H100", "count": 2},
]


def checked(tmp_path: Path, pools: dict[str, Any], nodes: list[dict[str, Any]], **more: Any) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"pools": pools, "cluster": {"nodes": nodes}, **more}))
    check_file(str(file))


def changed(pools: dict[str, Any], pool: str, **changes: Any) -> dict[str, Any]:
    return {**pools, pool: {**pools[pool], **changes}}


@pytest.mark.parametrize(("pools", "nodes"), [(LAB, []), (GPU, []), (GPU, NODES), (LAB, [{"cpus": 1}])])
def test_what_fits_passes(tmp_path, pools, nodes):
    checked(tmp_path, pools, nodes)


@pytest.mark.parametrize(
    ("pools", "nodes", "reason"),
    [
        (GPU, [NODES[0]], "pools.large.resources .*4 GPUs .*cluster.nodes"),
        (GPU, [NODES[0], {**NODES[1], "gpus": 2}], "no single node"),
        (GPU, [NODES[0], {**NODES[1], "accelerator_type": "L4"}], "H100"),
        (changed(LAB, "large", resources={"memory_gib": 64}), [NODES[0]], "64 GiB"),
        (changed(LAB, "large", resources={"num_cpus": 6}, replicas=3), [NODES[0]], "18.6 cpus .*16"),
        (changed(GPU, "small", replicas=9), NODES, "9 gpus .*8"),
        (
            changed(LAB, "small", engine={"kind": "transformers", "path": "x", "device": "cuda"}),
            [],
            "pools.small.engine.device .*pools.small.resources.num_gpus",
        ),
        (changed(LAB, "small", resources={"num_gpus": 1}), [], "device: cuda"),
        (changed(GPU, "large", resources={"num_gpus": 2}), [], "tensor_parallel 4"),
        (changed(LAB, "small", replicas={"min": 3, "max": 2}), [], "min 3 .*max 2"),
    ],
)
def test_what_no_machine_could_serve_is_refused_with_the_reason(tmp_path, pools, nodes, reason):
    with pytest.raises(ConfigError, match=reason) as refused:
        checked(tmp_path, pools, nodes)
    assert "my.yaml" in str(refused.value)


def test_remote_pools_need_no_machine_and_the_scorer_does(tmp_path):
    remote = changed(LAB, "large", engine={"kind": "openai", "urls": ["http://x/v1"]}, resources={"num_cpus": 99})
    checked(tmp_path, remote, [{"cpus": 1}])
    with pytest.raises(ConfigError, match=r"scorer\.resources .*4 CPUs"):
        checked(tmp_path, remote, [{"cpus": 1}], scorer={"replicas": 1, "resources": {"num_cpus": 4}})
