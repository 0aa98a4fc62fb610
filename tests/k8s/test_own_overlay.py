"""The overlay with everything of one's own, line by line: every path, volume, rule, label and name leads somewhere."""

import argparse
import re
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema

from serve_app.config import Config
from serve_app.front.settings import PROGRAM
from serve_app.k8s.check import check_documents, labels_of
from serve_app.k8s.delivery import below
from serve_app.k8s.documents import Document
from serve_app.k8s.prepare import _parser
from serve_app.k8s.rules.pods import pods_of
from serve_app.k8s.stopping import PROGRAMS
from tests.deploy.images import steps
from tests.k8s.manifests import NEEDS_KUSTOMIZE, TREE, documents, one

pytestmark = NEEDS_KUSTOMIZE
NAMESPACE = "llm"
OTHERS = {"kube-system", "monitoring", "ingress-nginx", "models"}
"""Namespaces of others that rules name: DNS, Prometheus, the ingress, an upstream."""


@pytest.fixture(scope="module")
def found() -> list[Document]:
    return documents("own")


@pytest.fixture(scope="module")
def service(found: list[Document]) -> dict[str, Any]:
    return one(found, "RayService").body


@pytest.fixture(scope="module")
def config(service: dict[str, Any]) -> Config:
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    return Config.model_validate(serve["applications"][0]["args"]["config"])


def pods(service: dict[str, Any]) -> list[dict[str, Any]]:
    return [template["spec"] for _, _, template in pods_of(service)]


def containers(service: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each container with its pod."""
    return [(spec, c) for spec in pods(service) for c in (*spec.get("initContainers", []), *spec["containers"])]


def test_no_rule_has_anything_to_say(found: list[Document]) -> None:
    assert check_documents(found) == []


def test_everything_is_in_one_namespace(found: list[Document]) -> None:
    assert {d.body["metadata"].get("namespace") for d in found} == {NAMESPACE}


def test_every_volume_has_a_source_and_every_mount_a_volume(found: list[Document], service: dict[str, Any]) -> None:
    names = {(d.kind, d.name) for d in found}
    for spec in pods(service):
        for volume in spec["volumes"]:
            (source,) = set(volume) - {"name"}
            if source == "configMap":
                assert ("ConfigMap", volume[source]["name"]) in names
            elif source == "persistentVolumeClaim":
                assert ("PersistentVolumeClaim", volume[source]["claimName"]) in names
            else:
                assert (source, volume[source]) == ("emptyDir", {})
        assert ("ServiceAccount", spec["serviceAccountName"]) in names
    for spec, container in containers(service):
        volumes = {v["name"] for v in spec["volumes"]}
        mounted = [m["mountPath"] for m in container["volumeMounts"]]
        assert {m["name"] for m in container["volumeMounts"]} <= volumes and len(set(mounted)) == len(mounted)
        used = {v["name"] for v in spec["volumes"]} - {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
        assert not used, "a volume that no container has"
        variables = {e["name"] for e in container.get("env", [])}
        for mount in container["volumeMounts"]:
            assert set(re.findall(r"\$\((\w+)\)", mount.get("subPathExpr", ""))) <= variables


def test_every_secret_is_in_the_readme_with_its_keys(service: dict[str, Any]) -> None:
    rows = {m[1]: m[2] for m in re.finditer(r"^\| `([\w-]+)` \| (.*?) \|", (TREE / "README.md").read_text(), re.M)}
    for spec, container in containers(service):
        assert [s["name"] for s in spec["imagePullSecrets"]] == ["registry-example"]
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is None:
                continue
            assert reference["name"] in rows, reference
            said = rows[reference["name"]]
            assert f"`{reference['key']}`" in said or "its name" in said or "variables" in said, reference


def test_every_program_is_in_the_image_and_takes_its_words(
    service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(s.name == "ENV" and f"PATH={PROGRAMS}:" in s.text for s in steps("Dockerfile.gpu"))
    monkeypatch.setattr(argparse.ArgumentParser, "error", lambda _, message: pytest.fail(message))
    for _, container in containers(service):
        assert container["image"] == "registry.partner.test/jethro:0.1.0-gpu"
        commands = [container["command"]] if "command" in container else []
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        for command in [*commands, *([hook] if hook else [])]:
            assert command[:3] == [f"{PROGRAMS}/python", "-P", "-m"]
            assert find_spec(command[3]) is not None
            if command[3] == "serve_app.k8s.prepare":
                assert _parser().parse_args(command[4:]).extras == "encoders,vllm"
        binary = [e["value"] for e in container.get("env", []) if e["name"] == "RAY_SERVE_HAPROXY_BINARY_PATH"]
        assert binary in ([f"{PROGRAMS}/{PROGRAM}"], [])


def test_every_path_is_below_a_mount_or_in_the_image(service: dict[str, Any], config: Config) -> None:
    (engine,) = {p.engine.path for p in config.pools.values() if p.engine.kind == "vllm"}
    assert config.cascade.chain is not None
    named = [config.store.path, config.routing.registry, config.cascade.chain, engine]
    for spec, container in containers(service):
        mounts = [m["mountPath"] for m in container["volumeMounts"]]
        values = [str(e.get("value", "")) for e in container.get("env", [])]
        paths = [v for v in values if re.fullmatch(r"/[\w./-]+", v)]
        words = [w for w in container.get("command", []) if w.startswith("/")]
        worker = container["name"] != "ray-head"
        for path in [*paths, *words, *(named if worker else [])]:
            assert any(below(path, place) for place in (*mounts, PROGRAMS)), (container["name"], path)
        assert all(
            v["name"] in {m["name"] for c in spec["containers"] for m in c["volumeMounts"]} for v in spec["volumes"]
        )


def test_the_config_that_pods_mount_is_there_under_its_name(found: list[Document], service: dict[str, Any]) -> None:
    (path,) = {e["value"] for _, c in containers(service) for e in c.get("env", []) if e["name"] == "JETHRO_CONFIG"}
    name = PurePosixPath(path).name
    written = Config.model_validate(yaml.safe_load(one(found, "ConfigMap").body["data"][name]))
    assert written.kubernetes.namespace == NAMESPACE


def test_ray_takes_every_key_and_finds_every_import(service: dict[str, Any]) -> None:
    tree = yaml.safe_load(service["spec"]["serveConfigV2"])
    kept = ServeDeploySchema.model_validate(tree).model_dump(exclude_unset=True)
    assert tree.keys() <= kept.keys() and tree["http_options"].keys() <= kept["http_options"].keys()
    (application,) = tree["applications"]
    assert application.keys() <= kept["applications"][0].keys()
    assert callable(import_attr(application["import_path"]))
    assert callable(import_attr(application["autoscaling_policy"]["policy_function"]))


def selectors(node: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every selector of an object, wherever it is, by its key."""
    if isinstance(node, list):
        return [s for item in node for s in selectors(item)]
    if not isinstance(node, dict):
        return []
    here = [(k, v) for k, v in node.items() if k in ("podSelector", "namespaceSelector", "selector", "labelSelector")]
    return here + [s for value in node.values() for s in selectors(value)]


def test_every_label_selects_something(found: list[Document], service: dict[str, Any]) -> None:
    labels = labels_of(service)
    for document in found:
        for key, selector in selectors(document.body.get("spec", {})):
            wanted = selector.get("matchLabels", {})
            if key == "namespaceSelector":
                assert set(wanted) <= {"kubernetes.io/metadata.name"} and set(wanted.values()) <= OTHERS
            elif wanted.get("app.kubernetes.io/name") == "kuberay-operator":
                continue  # the operator's own chart
            else:
                assert any(wanted.items() <= pod.items() for pod in labels), (str(document), wanted)
    assert {
        value
        for document in found
        for key, selector in selectors(document.body.get("spec", {}))
        if key == "namespaceSelector"
        for value in selector.get("matchLabels", {}).values()
    } == OTHERS


def test_services_that_others_name_are_those_that_the_operator_makes(found: list[Document]) -> None:
    (target,) = one(found, "ScrapeConfig").body["spec"]["staticConfigs"][0]["targets"]
    assert target == f"jethro-serve-svc.{NAMESPACE}.svc:8000"
    (rule,) = one(found, "Ingress").body["spec"]["rules"]
    assert rule["host"] == "llm.partner.test"
    assert {p["backend"]["service"]["name"] for p in rule["http"]["paths"]} == {"jethro-serve-svc"}


def test_gpu_pods_are_bound_to_their_nodes(service: dict[str, Any]) -> None:
    groups = {g["groupName"]: g for g in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "small"}, "remote pools have no pods"
    assert groups["small"]["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert "nodeSelector" not in groups["cpu"]["template"]["spec"]


def test_workers_have_what_the_config_needs_and_the_head_has_none_of_it(service: dict[str, Any]) -> None:
    head, *workers = pods(service)
    assert [v["name"] for v in head["volumes"]] == ["config", "state", "front"] and "initContainers" not in head
    for spec in workers:
        assert [v["name"] for v in spec["volumes"]] == ["config", "state", "front", "weights", "artefacts"]
        secrets = {e["name"] for e in spec["containers"][0]["env"] if "secretKeyRef" in e.get("valueFrom", {})}
        assert {"JETHRO_KEY", "PARTNER_API_KEY", "JETHRO_METRICS_KEY", "JETHRO_FRONT_TOKEN"} <= secrets
