"""Where URLs lead to from a pod, the policies made of them, and which rules let a pod reach them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import Config
from serve_app.config.base import LogConfig, TracesConfig
from serve_app.errors import ConfigError
from serve_app.k8s.egress import destinations, egress_mistakes, policies
from serve_app.k8s.pods import environment


def config(*urls: str, proxy: str | None = None, **kubernetes: Any) -> Config:
    def pool(model: str, urls: tuple[str, ...]) -> dict[str, Any]:
        return {"model": model, "engine": {"kind": "openai", "urls": urls, "proxy": proxy}}

    pools = {"small": pool("a", urls), "large": pool("b", ("https://api.partner.test/v1",))}
    return Config.model_validate({"pools": pools, "kubernetes": {"namespace": "llm", **kubernetes}})


@pytest.mark.parametrize(
    ("url", "namespace", "address", "port"),
    [
        ("http://vllm.models.svc:8000/v1", "models", None, 8000),
        ("http://vllm.models.svc.cluster.local/v1", "models", None, 80),
        ("http://vllm:8000/v1", "llm", None, 8000),
        ("https://api.partner.test/v1", None, None, 443),
        ("https://partner.test:8443/v1", None, None, 8443),
        ("http://partner.test.:8443/v1", None, None, 8443),
        ("http://10.1.2.3:8000/v1", None, "10.1.2.3", 8000),
        ("http://[fd12::7]:8000/v1", None, "fd12::7", 8000),
    ],
)
def test_what_a_url_leads_to(url: str, namespace: str | None, address: str | None, port: int) -> None:
    found = destinations(config(url))[0]
    assert (found.key, found.namespace, found.address, found.port) == (
        "pools.small.engine.urls",
        namespace,
        address,
        port,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"])
def test_the_pod_itself_is_no_upstream(host: str) -> None:
    with pytest.raises(ConfigError, match=r"pools\.small\.engine\.urls: http://.*is the pod itself"):
        destinations(config(f"http://{host}:8101/v1"))


def test_a_name_that_may_be_either_must_be_written_out() -> None:
    with pytest.raises(ConfigError, match=r"vllm\.models\.svc for the Service vllm of namespace models"):
        destinations(config("http://vllm.models:8000/v1"))


@pytest.mark.parametrize("enabled", [False, True])
def test_pods_reach_the_collector_of_traces_where_there_are_any(enabled: bool) -> None:
    made = config("http://10.1.2.3:8000/v1", collector="http://otel.monitoring.svc:4318")
    made = made.model_copy(update={"log": LogConfig(traces=TracesConfig(enabled=enabled))})
    found = {(t.key, t.namespace, t.port) for t in destinations(made)}
    assert (("kubernetes.collector", "monitoring", 4318) in found) is enabled
    worker = {one["name"]: one for one in environment(made)}
    assert ("OTEL_EXPORTER_OTLP_ENDPOINT" in worker) is ("OTEL_EXPORTER_OTLP_HEADERS" in worker) is enabled
    if enabled:
        assert worker["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://otel.monitoring.svc:4318"
        secret = {"name": "jethro-collector", "key": "headers", "optional": True}
        assert worker["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"] == {"secretKeyRef": secret}
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in {one["name"] for one in environment(made, head=True)}


def test_behind_a_proxy_only_the_proxy_is_reached() -> None:
    assert {t.url for t in destinations(config("http://10.1.2.3:8000/v1", proxy="http://proxy.egress.svc:3128"))} == {
        "http://proxy.egress.svc:3128"
    }


def test_what_the_base_opens_needs_no_policy() -> None:
    assert policies(config("https://api.other.test/v1")) == []


def test_a_metadata_service_is_never_among_any_addresses() -> None:
    (policy,) = policies(config("http://api.other.test:8080/v1"))
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
        {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128", "fe80::/10"]}},
    ]
    assert rule["ports"] == [{"port": 8080, "protocol": "TCP"}]


def test_an_address_is_opened_alone() -> None:
    (policy,) = policies(config("http://10.1.2.3:8000/v1", "http://10.1.2.3:8000/v2"))
    assert policy["spec"]["egress"] == [
        {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 8000, "protocol": "TCP"}]}
    ]
    assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "worker"


DNS = [{"to": [{"namespaceSelector": {}}], "ports": [{"port": 53, "protocol": p} for p in ("UDP", "TCP")]}]
HTTPS = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}]
hosts = st.sampled_from(["vllm.models.svc", "vllm", "api.partner.test", "10.1.2.3", "192.168.0.9", "a.b.c.test"])
ports = st.integers(1, 65535).filter(lambda port: port != 443)


@given(st.dictionaries(ports, hosts, min_size=1, max_size=4))
def test_what_is_rendered_lets_pods_reach_every_upstream_and_nothing_less_does(found: dict[int, str]) -> None:
    urls = [f"http://{host}:{port}/v1" for port, host in found.items()]
    wanted = config(*urls, node_local_dns="169.254.20.10")
    rendered = [rule for policy in policies(wanted) for rule in policy["spec"]["egress"]]
    assert list(egress_mistakes(wanted, [*DNS, *HTTPS, *rendered])) == []
    for i in range(len(rendered)):
        less = rendered[:i] + rendered[i + 1 :]
        assert list(egress_mistakes(wanted, [*DNS, *HTTPS, *less])), rendered[i]


@pytest.mark.parametrize(
    "rule",
    [
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 8000}]},
        {"to": [{"ipBlock": {"cidr": "10.1.2.0/24"}}], "ports": [{"port": 80}]},
        {"to": [{"ipBlock": {"cidr": "10.1.2.0/24"}}], "ports": [{"port": 8000, "protocol": "UDP"}]},
        {"to": [{"ipBlock": {"cidr": "::/0"}}]},
        {"to": [{"podSelector": {}}]},
    ],
)
def test_rules_that_do_not_open_an_address(rule: dict[str, Any]) -> None:
    assert len(list(egress_mistakes(config("http://10.1.2.3:8000/v1"), [*DNS, *HTTPS, rule]))) == 1


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 7000, "endPort": 8000}]},
    ],
)
def test_rules_that_open_it(rule: dict[str, Any]) -> None:
    assert list(egress_mistakes(config("http://10.1.2.3:8000/v1"), [*DNS, *HTTPS, rule])) == []


def test_without_a_policy_everything_is_reached() -> None:
    assert list(egress_mistakes(config("http://10.1.2.3:8000/v1"), None)) == []
