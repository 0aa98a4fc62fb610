"""Mistakes in what is one's own (upstreams, routers, claims, names, ingress), each caught by one sentence."""

from pathlib import Path

import pytest

from serve_app.k8s.check import check_documents
from tests.k8s.manifests import NEEDS_KUSTOMIZE, documents, one
from tests.k8s.rules.plants import Plant, cluster, egress, everywhere, mounts, pod, prepare, remove, served, service

pytestmark = NEEDS_KUSTOMIZE
OWN: dict[str, tuple[Plant, str]] = {
    # egress
    "no way to a service": (
        lambda d: egress(d, "jethro-upstreams").pop(0),
        "lets pods reach http://vllm.models.svc:8000",
    ),
    "no way outside": (
        lambda d: egress(d, "jethro-upstreams").pop(1),
        "https://llm.partner.test:8443/v1 of pools.large",
    ),
    "another port": (
        lambda d: egress(d, "jethro-upstreams")[1].update(ports=[{"port": 8444, "protocol": "TCP"}]),
        "lets pods reach https://llm.partner.test:8443",
    ),
    "no hub": (lambda d: egress(d, "jethro-within").pop(2), "kubernetes.artefacts.url: render again"),
    "no dns": (lambda d: egress(d, "jethro-within").pop(1), "lets pods reach DNS in kube-system"),
    "no local dns": (lambda d: remove(d, "NetworkPolicy", "jethro-dns"), "NodeLocal DNSCache at 169.254.20.10"),
    "the pod itself": (
        served(lambda c: c["pools"]["medium"]["engine"].update(urls=["http://localhost:8000/v1"])),
        "in a pod localhost is the pod itself",
    ),
    # routers and chains
    "no chain": (
        served(lambda c: c["cascade"].update(chain="/data/chain")),
        "cascade.chain: /data/chain is neither on a claim",
    ),
    "relative chain": (served(lambda c: c["cascade"].update(chain="var/chain")), "cascade.chain: var/chain is neither"),
    "empty registry": (
        served(lambda c: c["routing"].update(registry="/tmp/routers")),
        "routing.router: mine does not ship with Jethro, and the registry /tmp/routers is empty",
    ),
    "weights": (
        served(lambda c: c["pools"]["small"]["engine"].update(path="/data/qwen")),
        "pools.small.engine.path: /data/qwen is neither",
    ),
    "nothing prepared": (everywhere(lambda spec: spec.pop("initContainers")), "no init container runs"),
    "another archive": (prepare("--sha256", "0" * 64), "does not load kubernetes.artefacts.url with its sha256"),
    "unpacked elsewhere": (prepare("--into", "/tmp/artefacts"), "into /tmp/artefacts is in no volume"),
    "not mounted": (mounts(lambda m: m.remove(next(x for x in m if x["name"] == "artefacts"))), "is in no volume"),
    "read-only archive": (
        everywhere(lambda s: s["initContainers"][0]["volumeMounts"][-1].update(readOnly=True)),
        "is in no volume of the Ray container",
    ),
    "init's volume": (
        everywhere(lambda s: s["initContainers"][0]["volumeMounts"].append({"name": "x", "mountPath": "/x"})),
        "volumeMount x: no volume of that name",
    ),
    "init's image": (
        everywhere(lambda s: s["initContainers"][0].update(image="jethro:latest")),
        "image 'jethro:latest' says no version",
    ),
    # extras
    "extras": (prepare("--extras", "encoders"), "the config needs the extra vllm, and --extras says encoders"),
    "options' extras": (prepare("--extras", "vllm"), "the config needs the extra encoders"),
    # claims
    "no claim": (
        lambda d: remove(d, "PersistentVolumeClaim", "jethro-weights"),
        "claim jethro-weights is neither among the objects nor in kubernetes.weights",
    ),
    "claim of one node": (
        lambda d: one(d, "PersistentVolumeClaim", "jethro-state").body["spec"].update(accessModes=["ReadWriteOnce"]),
        "up to 6 pods write to it",
    ),
    "one log": (
        mounts(lambda m: m.remove(next(x for x in m if "subPathExpr" in x))),
        "store.path: /var/lib/jethro/log/jethro.sqlite3 is not in a volume of this pod alone",
    ),
    "relative log": (served(lambda c: c["store"].update(path="x.sqlite3")), "store.path: x.sqlite3 is relative"),
    # names
    "scraped without a namespace": (
        lambda d: one(d, "ScrapeConfig").body["spec"].update(staticConfigs=[{"targets": ["jethro-serve-svc:8000"]}]),
        "at jethro-serve-svc.llm.svc:8000",
    ),
    "another namespace": (
        lambda d: service(d)["metadata"].update(namespace="production"),
        "at jethro-serve-svc.production.svc:8000",
    ),
    "any gpu": (lambda d: pod(d).pop("nodeSelector"), "claim an accelerator L4 on whatever node they get"),
    "no pull secret": (lambda d: pod(d).pop("imagePullSecrets"), "imagePullSecrets lack registry-example"),
    "no pull secret of the head": (
        lambda d: cluster(d)["headGroupSpec"]["template"]["spec"].update(imagePullSecrets=[{"name": "x"}]),
        "head group: imagePullSecrets lack registry-example",
    ),
    # ingress
    "example host": (
        lambda d: one(d, "Ingress").body["spec"]["rules"][0].update(host="jethro.example.com"),
        "host jethro.example.com is an example",
    ),
    "host without a certificate": (
        lambda d: one(d, "Ingress").body["spec"]["rules"][0].update(host="api.partner.test"),
        "host api.partner.test is not among the hosts of tls",
    ),
    "short timeout": (
        lambda d: (
            one(d, "Ingress")
            .body["metadata"]["annotations"]
            .update({"nginx.ingress.kubernetes.io/proxy-read-timeout": "60"})
        ),
        "proxy-read-timeout 60 is below limits.request_timeout_s 600",
    ),
    "small bodies": (
        lambda d: (
            one(d, "Ingress")
            .body["metadata"]["annotations"]
            .update({"nginx.ingress.kubernetes.io/proxy-body-size": "512k"})
        ),
        "proxy-body-size 512k is below limits.body_bytes 1048576",
    ),
}
"""Each gives its own sentence, and no second one."""
TWO = {"no dns": 2, "no local dns": 2}
"""UDP and TCP."""


def test_folders_of_the_machine_that_checks_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert check_documents(documents("own")) == []


@pytest.mark.parametrize("mistake", OWN)
def test_each_mistake_in_what_is_ones_own_is_caught_by_one_sentence(mistake: str) -> None:
    found = documents("own")
    plant, said = OWN[mistake]
    plant(found)
    mistakes = check_documents(found)
    assert all(said in m for m in mistakes), mistakes
    assert len(mistakes) == TWO.get(mistake, 1), mistakes
