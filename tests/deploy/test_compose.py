"""The compose file: what it mounts is there, images have tags, nothing listens beyond the host, stops have time."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from serve_app.config import check_file
from serve_app.k8s.stopping import ray_drain_s
from serve_app.observability.grafana.boards import read_boards
from tests.deploy.images import DOCKERFILES, ROOT

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_tags_and_ports_stay_on_the_host(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there_or_declared(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        if source.startswith("."):
            assert volume.endswith(":ro")
    assert set(SERVICES[name].get("secrets", [])) <= set(COMPOSE["secrets"])
    assert set(SERVICES[name].get("depends_on", [])) <= set(SERVICES)


def test_the_endpoint_is_built_here_and_stops_in_its_own_time() -> None:
    jethro = SERVICES["jethro"]
    assert jethro["build"]["dockerfile"].removeprefix("deploy/") in DOCKERFILES
    config = check_file(str(DEPLOY / "compose-config.yaml"))
    assert config.server.host == "0.0.0.0" and set(config.secrets()) == set(jethro["environment"])
    # `jethro serve` drains its front, then Serve's replicas, then ends Ray
    needed = config.gateway.drain_s + ray_drain_s(config) + 15
    assert int(jethro["stop_grace_period"].removesuffix("s")) > needed
    assert config.store.path.startswith("/var/lib/jethro/")


def test_secrets_come_from_the_environment_and_must_be_set() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"KEY|PASSWORD", name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_takes_its_configuration() -> None:
    command = ["promtool", "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_the_endpoint_with_a_key_that_opens_metrics_alone() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["jethro:8000"]}]
    file = job["authorization"]["credentials_file"]
    assert [file] == [f"/run/secrets/{name}" for name in SERVICES["prometheus"]["secrets"]]
    server = check_file(str(DEPLOY / "compose-config.yaml")).server
    (source,) = COMPOSE["secrets"].values()
    assert source == {"environment": server.metrics_key_env}
    assert server.metrics_key_env not in {key.env for key in server.keys}
    assert [(DEPLOY / "prometheus" / f).is_file() for f in config["rule_files"]] == [True]


def test_grafana_finds_its_source_and_the_boards_of_the_package() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    boards = read_boards((DEPLOY / "../serve_app/observability/dashboards").resolve())
    (variable,) = {str(v) for board in boards for v in board["templating"]["list"]}
    assert source["isDefault"] and "'query': 'prometheus'" in variable  # whatever board: the default Prometheus
    (provider,) = yaml.safe_load((folder / "dashboards" / "jethro.yaml").read_text())["providers"]
    mounted = [v for v in SERVICES["grafana"]["volumes"] if v.endswith(f":{provider['options']['path']}:ro")]
    assert mounted == ["../serve_app/observability/dashboards:/var/lib/grafana/dashboards:ro"]
