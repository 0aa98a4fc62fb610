"""The committed overlays: fresh, built by kustomize, without a mistake, and with the answers they are there for."""

import pytest
import yaml

from serve_app.config import Config, check_file
from serve_app.config.environment import SERVE_ENVIRONMENT
from serve_app.front.settings import BOUNDS
from serve_app.front.settings import load as load_front
from serve_app.k8s.check import check_documents
from serve_app.k8s.documents import read
from serve_app.k8s.render import OVERLAYS, render
from serve_app.k8s.rules.pods import pods_of, variables
from serve_app.k8s.schema import schema_mistakes
from serve_app.k8s.serve_config import config_of
from serve_app.k8s.stopping import PROGRAMS, drains, grace_of, hook_of, hook_times, ray_drain_of
from tests.k8s.manifests import NEEDS_KUSTOMIZE, OPTIONS, ROOT, TREE, documents, one

REFERENCE = ("#5004", "#64181", "#62682", "#59076", "#4445", "#1476", "#2274", "#58621", "#615", "#51095", "#1090")
REFERENCE += ("#48471", "#64984", "#863", "#1685", "#3166", "#2433", "gcs-ft-deletion-timeout", "#33416", "#61731")


def test_every_overlay_is_there() -> None:
    assert (
        {p.name for p in (TREE / "overlays").iterdir() if (p / "jethro.yaml").exists()} == set(OPTIONS) >= set(OVERLAYS)
    )


@pytest.mark.parametrize("overlay", sorted(OPTIONS))
def test_what_is_committed_is_what_the_config_renders(overlay: str) -> None:
    folder = TREE / "overlays" / overlay
    config = check_file(str(folder / "jethro.yaml"))
    for name, text in render(config, OPTIONS[overlay], "../../../serve_app/k8s/kustomize").items():
        assert (folder / name).read_text() == text, f"run: jethro k8s render --config {folder}/jethro.yaml ..."


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("overlay", sorted(OPTIONS))
def test_overlays_build_and_pass_every_check(overlay: str) -> None:
    assert check_documents(documents(overlay)) == []


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("overlay", sorted(OPTIONS))
def test_head_and_workers_have_the_environment_that_serve_needs(overlay: str) -> None:
    service = one(documents(overlay), "RayService").body
    for where, _, template in pods_of(service):
        env = variables(template)
        assert {k: env[k] for k in SERVE_ENVIRONMENT} == SERVE_ENVIRONMENT
        assert env["RAY_worker_niceness"] == "0"
        secrets = {name for name, value in env.items() if value is None}  # by reference
        keys = {"JETHRO_FRONT_TOKEN"} if where == "head group" else {"JETHRO_KEY", "JETHRO_METRICS_KEY"}
        assert keys <= secrets and ("JETHRO_KEY" in secrets) is (where != "head group")


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("overlay", sorted(OPTIONS))
def test_every_pod_has_our_front_and_drains_it_before_it_stops(overlay: str) -> None:
    found = documents(overlay)
    service = one(found, "RayService").body
    config = config_of(service)
    assert config is not None
    for _, _, template in pods_of(service):
        env = variables(template)
        assert env["RAY_SERVE_HAPROXY_BINARY_PATH"] == f"{PROGRAMS}/jethro-front"
        assert env["RAY_SERVE_HAPROXY_SOCKET_PATH"] == "/run/jethro/front/s.sock"
        assert load_front({BOUNDS: env[BOUNDS] or ""}).header_s == config.server.header_s
        times, longest = hook_times(hook_of(template)), max(drains(config).values())
        assert times is not None
        pause, drain = times
        assert pause >= 5 and drain >= longest and ray_drain_of(template) > longest
        assert grace_of(template) >= pause + drain + ray_drain_of(template) + 15
        assert service["spec"]["rayClusterDeletionDelaySeconds"] >= grace_of(template)


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("overlay", sorted(OPTIONS))
def test_prometheus_has_a_key_that_opens_metrics_alone(overlay: str) -> None:
    found = documents(overlay)
    scrape = one(found, "ScrapeConfig").body["spec"]
    assert scrape["authorization"] == {"type": "Bearer", "credentials": {"name": "jethro-metrics", "key": "key"}}
    _, _, template = pods_of(one(found, "RayService").body)[-1]
    env = {e["name"]: e.get("valueFrom", {}).get("secretKeyRef") for e in template["spec"]["containers"][0]["env"]}
    assert env["JETHRO_METRICS_KEY"] == {"name": "jethro-metrics", "key": "key"} != env["JETHRO_KEY"]


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("overlay", sorted(OPTIONS))
def test_no_secret_and_no_latest_image_is_in_them(overlay: str) -> None:
    found = documents(overlay)
    assert "Secret" not in {d.kind for d in found}
    assert ":latest" not in yaml.safe_dump_all(d.body for d in found)


@NEEDS_KUSTOMIZE
def test_the_large_gpu_group_comes_from_zero() -> None:
    cluster = one(documents("gpu"), "RayService").body["spec"]["rayClusterConfig"]
    groups = {g["groupName"]: g for g in cluster["workerGroupSpecs"]}
    large = groups["large"]
    assert (large["minReplicas"], large["replicas"], large["maxReplicas"]) == (0, 0, 2)
    limits = large["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "4"
    assert large["resources"]["accelerator_type:H100"] == "1"
    assert large["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "nvidia.com/gpu" not in groups["cpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]


@NEEDS_KUSTOMIZE
def test_high_availability_is_two_of_everything_and_a_head_that_may_be_lost() -> None:
    found = documents("ha")
    service = one(found, "RayService").body
    assert service["spec"]["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    assert service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"] == "jethro-redis:6379"
    assert all(g["minReplicas"] >= 2 for g in service["spec"]["rayClusterConfig"]["workerGroupSpecs"])
    assert "jethro-head" not in {d.name for d in found if d.kind == "PodDisruptionBudget"}
    config = Config.model_validate(yaml.safe_load(one(found, "ConfigMap").body["data"]["jethro.yaml"]))
    assert config.gateway.replicas >= 2 and all(p.replicas.min >= 2 for p in config.pools.values())


def test_every_known_trouble_is_named_beside_its_answer() -> None:
    inside = ROOT / "serve_app" / "k8s"
    places = [*TREE.rglob("*.yaml"), *inside.rglob("*.yaml"), *inside.rglob("*.py")]
    text = "".join(p.read_text() for p in places if "overlays" not in p.parts or p.name == "jethro.yaml")
    assert [name for name in REFERENCE if name not in text] == []


def test_readme_names_the_secrets_that_the_manifests_refer_to() -> None:
    readme = (TREE / "README.md").read_text()
    secrets = ("jethro-front", "jethro-keys", "jethro-metrics", "jethro-upstream-keys", "jethro-model-hub")
    for name in (*secrets, "jethro-redis", "jethro-ray-token"):
        assert f"`{name}`" in readme


def test_the_pod_that_copies_to_a_claim_is_valid() -> None:
    (document,) = read([TREE / "copy-to-claim.yaml"])
    assert schema_mistakes(document) == []
    assert document.body["spec"]["securityContext"]["fsGroup"] == 1000, "that of the pods that read it"
