"""Rendering: what it changes of a config, what it refuses, and that Ray itself takes every key of the Serve config."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.config import Config, load
from serve_app.errors import ConfigError
from serve_app.k8s.check import check_documents
from serve_app.k8s.documents import parse
from serve_app.k8s.render import RenderOptions, cluster_file, in_cluster, printed, render, serve_config
from serve_app.k8s.rules.pods import quantity
from serve_app.k8s.serve_config import parse_serve_config
from tests.k8s.manifests import NEEDS_KUSTOMIZE, one

KEYS = {"keys": [{"name": "default", "env": "JETHRO_KEY"}]}


def lab(**more: Any) -> Config:
    tree = load("lab", env={}).model_dump(mode="json", exclude_unset=True)
    return Config.model_validate(tree | {"server": KEYS} | more)


def kept(given: Any, taken: Any) -> bool:
    """Whether every key of `given` is in `taken`, at every level."""
    if isinstance(given, dict):
        return all(key in taken and kept(value, taken[key]) for key, value in given.items())
    if isinstance(given, list):
        return len(given) == len(taken) and all(kept(a, b) for a, b in zip(given, taken, strict=True))
    return True


@pytest.mark.parametrize("profile", ["lab", "gpu"])
def test_ray_keeps_every_key_of_what_is_rendered(profile: str) -> None:
    tree = load(profile, env={}).model_dump(mode="json", exclude_unset=True) | {"server": KEYS}
    rendered = serve_config(in_cluster(Config.model_validate(tree)))
    assert kept(rendered, ServeDeploySchema.model_validate(rendered).model_dump(exclude_unset=True))
    assert parse_serve_config(yaml.safe_dump(rendered), "x")[1] == []


def test_what_ray_would_drop_in_silence_is_refused() -> None:
    rendered = serve_config(in_cluster(lab()))
    rendered["proxy_locaton"] = "HeadOnly"
    ServeDeploySchema.model_validate(rendered)
    assert "did you mean proxy_location?" in parse_serve_config(yaml.safe_dump(rendered), "x")[1][0]


def test_inside_pods_a_config_listens_everywhere_and_keeps_its_state_on_the_volume() -> None:
    inside = in_cluster(lab(store={"path": "var/my.sqlite3"}, routing={"registry": "/mine/routers"}))
    assert (inside.server.host, inside.server.port) == ("0.0.0.0", 8000)
    assert (inside.store.path, inside.routing.registry) == ("/var/lib/jethro/my.sqlite3", "/mine/routers")


def test_without_keys_nothing_is_rendered_unless_that_is_said() -> None:
    with pytest.raises(ConfigError, match=r"server\.keys: missing"):
        in_cluster(lab(server={}))
    assert in_cluster(lab(server={"allow_unauthenticated": True})).server.keys == ()


def test_ha_wants_two_of_everything() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.replicas is 1, pools\.small\.replicas\.min"):
        render(lab(), RenderOptions("ha"), "../..")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"overlay": "gpus"}, "cpu, gpu, ha"),
        ({"components": ("aut",)}, "auth, ingress"),
        ({"image": "jethro"}, "tag"),
        ({"image": "localhost:5000/jethro"}, "tag"),
        ({"image": "jethro:latest"}, "latest"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RenderOptions(**wanted)


def test_the_image_and_the_components_go_into_the_kustomization() -> None:
    wanted = RenderOptions("gpu", ("auth", "ingress"), "localhost:5000/team/jethro:0.2.0")
    ingress = {"ingress": {"host": "llm.partner.test", "class_name": "haproxy", "controller_namespace": "edge"}}
    files = render(lab(kubernetes=ingress, limits={"request_timeout_s": 1200, "body_bytes": 3000}), wanted, "../..")
    folder = yaml.safe_load(files["kustomization.yaml"])
    assert folder["images"] == [{"name": "jethro", "newName": "localhost:5000/team/jethro", "newTag": "0.2.0"}]
    assert [c.rpartition("/")[2] for c in folder["components"]] == ["scarce-gpus", "auth", "ingress"]
    (values,) = (yaml.safe_load(p["patch"]) for p in folder["patches"][1:] if p["target"]["kind"] == "Ingress")
    patched = {operation["path"].rpartition("/")[2]: operation["value"] for operation in values}
    assert patched["host"] == "llm.partner.test" and patched["ingressClassName"] == "haproxy"
    assert patched["nginx.ingress.kubernetes.io~1proxy-read-timeout"] == "1220"
    assert patched["nginx.ingress.kubernetes.io~1proxy-body-size"] == "3k"


@NEEDS_KUSTOMIZE
def test_prometheus_and_redis_are_those_of_the_config() -> None:
    pools = {name: pool | {"replicas": 2} for name, pool in lab().model_dump(mode="json")["pools"].items()}
    names = {"prometheus": {"release": "kps", "namespace": "observe"}, "redis_host": "redis.partner.test"}
    wanted = lab(pools=pools, gateway={"replicas": 2}, kubernetes={"namespace": "llm", **names})
    found = parse("x", printed(wanted, RenderOptions("ha"), None))
    assert check_documents(found) == []
    releases = {d.body["metadata"]["labels"].get("release") for d in found if "monitoring" in d.body["apiVersion"]}
    assert releases == {"kps"}
    (rule,) = one(found, "NetworkPolicy", "jethro-monitoring").body["spec"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observe"}}}]
    assert one(found, "Service").body["spec"]["externalName"] == "redis.partner.test"


def test_an_ingress_needs_a_host_and_comes_with_one() -> None:
    with pytest.raises(ConfigError, match=r"kubernetes\.ingress\.host"):
        render(lab(), RenderOptions("cpu", ("ingress",)), "../..")
    with_host = lab(kubernetes={"ingress": {"host": "llm.partner.test"}})
    folder = yaml.safe_load(render(with_host, RenderOptions("cpu"), "../..")["kustomization.yaml"])
    assert folder["components"][-1].endswith("/ingress")
    two = lab(kubernetes={"ingress": {"host": "llm.partner.test"}}, gateway={"replicas": 2})
    pools = {name: pool | {"replicas": 2} for name, pool in two.model_dump(mode="json")["pools"].items()}
    with pytest.raises(ConfigError, match="overlay ha moves callers by the Gateway"):
        render(two.model_validate(two.model_dump(mode="json") | {"pools": pools}), RenderOptions("ha"), "../..")


def test_options_of_kubernetes_are_no_part_of_what_is_served() -> None:
    inside = in_cluster(lab(kubernetes={"namespace": "llm"}))
    assert "kubernetes" not in serve_config(inside)["applications"][0]["args"]["config"]
    assert inside.kubernetes.namespace == "llm"


def test_a_serve_config_for_any_cluster_has_whole_paths_and_names_the_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ensemble = {"plan": "var/plan", "fuser": "pool:large"}
    text = cluster_file(lab(cascade={"chain": "var/chain"}, ensemble=ensemble), "my.yaml")
    rendered = yaml.safe_load(text)
    assert kept(rendered, ServeDeploySchema.model_validate(rendered).model_dump(exclude_unset=True))
    config = Config.model_validate(rendered["applications"][0]["args"]["config"])
    assert config.store.path == str(tmp_path / "var" / "jethro.sqlite3")
    assert config.routing.registry == str(tmp_path / "var" / "routers")
    assert config.cascade.chain == str(tmp_path / "var" / "chain")
    assert (config.ensemble.plan, config.ensemble.fuser) == (str(tmp_path / "var" / "plan"), "pool:large")
    assert "# JETHRO_KEY: server.keys (default)" in text and "jethro serve-config my.yaml" in text
    assert (rendered["http_options"]["host"], rendered["http_options"]["port"]) == ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("2", 2.0), (3, 3.0), ("4Gi", 2**32), ("1k", 1000.0), ("1.5", 1.5), ("4GB", None)],
)
def test_quantities(text: object, value: float | None) -> None:
    assert quantity(text) == value
