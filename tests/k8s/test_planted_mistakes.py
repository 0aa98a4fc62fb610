"""Mistakes planted one at a time in good manifests: the check catches each, and by its own name."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from serve_app.errors import ConfigError
from serve_app.k8s.check import check_documents
from serve_app.k8s.documents import Document, parse
from serve_app.k8s.pod_rules import pods_of
from tests.k8s.manifests import NEEDS_KUSTOMIZE, documents, one

pytestmark = NEEDS_KUSTOMIZE
Plant = Callable[[list[Document]], Any]


def service(found: list[Document]) -> dict[str, Any]:
    return one(found, "RayService").body


def cluster(found: list[Document]) -> dict[str, Any]:
    inside: dict[str, Any] = service(found)["spec"]["rayClusterConfig"]
    return inside


def group(found: list[Document], name: str = "small") -> dict[str, Any]:
    return next(g for g in cluster(found)["workerGroupSpecs"] if g["groupName"] == name)


def pod(found: list[Document], name: str = "small") -> dict[str, Any]:
    spec: dict[str, Any] = group(found, name)["template"]["spec"]
    return spec


def container(found: list[Document], name: str = "small") -> dict[str, Any]:
    inside: dict[str, Any] = pod(found, name)["containers"][0]
    return inside


def serve(change: Callable[[dict[str, Any]], Any]) -> Plant:
    def plant(found: list[Document]) -> None:
        spec = service(found)["spec"]
        tree = yaml.safe_load(spec["serveConfigV2"])
        change(tree)
        spec["serveConfigV2"] = yaml.safe_dump(tree)

    return plant


def application(change: Callable[[dict[str, Any]], Any]) -> Plant:
    return serve(lambda tree: change(tree["applications"][0]))


def config(change: Callable[[dict[str, Any]], Any]) -> Plant:
    return application(lambda app: change(app["args"]["config"]))


def renamed(tree: dict[str, Any], old: str, new: str) -> None:
    tree[new] = tree.pop(old)


def without_env(found: list[Document], name: str) -> None:
    for g in cluster(found)["workerGroupSpecs"]:
        env = g["template"]["spec"]["containers"][0]["env"]
        env[:] = [e for e in env if e["name"] != name]


def front(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The token's variable of one group's container."""
    return lambda found: change(next(e for e in container(found)["env"] if e["name"] == "JETHRO_FRONT_TOKEN"))


def hook(*words: str) -> Plant:
    """The words of one group's preStop hook after its module."""

    def plant(found: list[Document]) -> None:
        command = container(found)["lifecycle"]["preStop"]["exec"]["command"]
        command[command.index("serve_app.front.control") + 1 :] = words

    return plant


def env_everywhere(found: list[Document], name: str, value: str | None) -> None:
    for _, _, template in pods_of(service(found)):
        env = template["spec"]["containers"][0]["env"]
        env[:] = [e for e in env if e["name"] != name] + ([] if value is None else [{"name": name, "value": value}])


def remove(found: list[Document], kind: str, name: str | None = None) -> None:
    found.remove(one(found, kind, name))


def env_value(found: list[Document], name: str, value: str) -> None:
    env = container(found)["env"]
    env[:] = [e for e in env if e["name"] != name] + [{"name": name, "value": value}]


MISTAKES: dict[str, tuple[Plant, str]] = {
    # misspelt keys, at every level
    "spec": (lambda d: renamed(service(d)["spec"], "serveConfigV2", "serveConfigv2"), "unknown key serveConfigv2"),
    "cluster": (lambda d: renamed(cluster(d), "enableInTreeAutoscaling", "enableInTreeAutoscaler"), "unknown key"),
    "group key": (lambda d: renamed(group(d), "minReplicas", "minReplica"), "unknown key minReplica"),
    "pod key": (lambda d: renamed(pod(d), "terminationGracePeriodSeconds", "terminationGraceSeconds"), "unknown key"),
    "container key": (lambda d: renamed(container(d)["resources"], "limits", "limit"), "unknown key limit"),
    "serve key": (serve(lambda t: renamed(t["http_options"], "host", "hosts")), "did you mean host?"),
    "deployment key": (
        application(lambda a: a.update(deployments=[{"name": "Gateway", "num_replica": 2}])),
        "did you mean num_replicas?",
    ),
    "application key": (application(lambda a: renamed(a, "route_prefix", "route_prefx")), "did you mean route_prefix?"),
    "config key": (config(lambda c: c["pools"]["small"].update(replica=2)), "did you mean replicas?"),
    "core key": (lambda d: one(d, "NetworkPolicy").body["spec"].update(ingres=[]), "ingres"),
    "monitor key": (lambda d: one(d, "PodMonitor").body["spec"].update(selectr={}), "did you mean selector?"),
    "rule key": (lambda d: one(d, "PrometheusRule").body["spec"]["groups"][0]["rules"][0].update(exp="x"), "exp"),
    # values
    "quantity": (lambda d: container(d)["resources"]["limits"].update(memory="25Gb"), "memory"),
    "type": (lambda d: group(d).update(maxReplicas="4"), "maxReplicas"),
    "unquoted version": (lambda d: cluster(d).update(rayVersion=2.60), "rayVersion"),
    "other version": (lambda d: cluster(d).update(rayVersion="2.50.0"), "must be that of the image"),
    "bounds": (lambda d: group(d).update(minReplicas=5), "minReplicas 5 <= replicas"),
    "pool bounds": (
        config(lambda c: c["pools"]["small"].update(replicas={"min": 3, "max": 2})),
        "min 3 is above max 2",
    ),
    "too few pods": (config(lambda c: c["pools"]["large"].update(replicas={"min": 0, "max": 9})), "have room for 2"),
    "too many pods": (
        lambda d: group(d, "large").update(minReplicas=4, replicas=4, maxReplicas=4),
        "keeps pods for more than that",
    ),
    "import path": (application(lambda a: a.update(import_path="serve_app.deployment:build")), "import_path"),
    "latest": (lambda d: container(d).update(image="jethro:latest"), "says no version"),
    "no tag": (lambda d: container(d).update(image="localhost:5000/jethro"), "says no version"),
    "port name": (lambda d: container(d)["ports"][0].update(name="serve_port"), "port name 'serve_port'"),
    "long port name": (lambda d: container(d)["ports"][1].update(name="prometheus-metrics"), "at most 15"),
    "another port": (serve(lambda t: t["http_options"].update(port=9000)), "http_options listen on 0.0.0.0:9000"),
    # pods that go too fast or use what they may not
    "grace period": (lambda d: pod(d).update(terminationGracePeriodSeconds=30), "must be above the preStop's pause"),
    "no grace period": (lambda d: pod(d).pop("terminationGracePeriodSeconds"), "must be above the preStop's pause"),
    # enough for Ray's drain (200 s) and the pause, and not for the front's drain (180 s)
    "grace period without the front's drain": (
        lambda d: pod(d).update(terminationGracePeriodSeconds=220),
        "385 s together",
    ),
    "drain": (config(lambda c: c["gateway"].update(drain_s=500)), "Ray drains for 200 s and gateway.drain_s is 500"),
    "front's drain": (config(lambda c: c["gateway"].update(drain_s=190)), "the preStop drains for 180 s and gateway"),
    "no hook": (lambda d: container(d).pop("lifecycle"), "worker group small: no preStop that pauses and then drains"),
    "no hook of the head": (
        lambda d: cluster(d)["headGroupSpec"]["template"]["spec"]["containers"][0].pop("lifecycle"),
        "head group: no preStop",
    ),
    "hook that only sleeps": (
        lambda d: container(d).update(lifecycle={"preStop": {"exec": {"command": ["sleep", "200"]}}}),
        "no preStop that pauses and then drains",
    ),
    "hook without a pause": (hook("/run/jethro/front", "180"), "no preStop that pauses and then drains"),
    "hook with a pause of nothing": (hook("/run/jethro/front", "180", "--after", "0"), "no preStop that pauses"),
    "hook of another folder": (hook("/tmp/haproxy-serve", "180", "--after", "5"), "the preStop drains /tmp/haproxy"),
    # HAProxy as Ray Serve has it
    "no front": (
        lambda d: env_everywhere(d, "RAY_SERVE_HAPROXY_BINARY_PATH", None),
        "RAY_SERVE_HAPROXY_BINARY_PATH must be the path of jethro-front",
    ),
    "plain haproxy": (
        lambda d: env_everywhere(d, "RAY_SERVE_HAPROXY_BINARY_PATH", "/usr/sbin/haproxy"),
        "RAY_SERVE_HAPROXY_BINARY_PATH must be the path of jethro-front",
    ),
    # Serve takes no program that must be looked for
    "front by name": (
        lambda d: env_everywhere(d, "RAY_SERVE_HAPROXY_BINARY_PATH", "jethro-front"),
        "RAY_SERVE_HAPROXY_BINARY_PATH must be the path of jethro-front",
    ),
    "no token": (lambda d: without_env(d, "JETHRO_FRONT_TOKEN"), "JETHRO_FRONT_TOKEN is not given"),
    "optional token": (front(lambda e: e["valueFrom"]["secretKeyRef"].update(optional=True)), "or only optional"),
    "written token": (lambda d: env_value(d, "JETHRO_FRONT_TOKEN", "0123456789abcdef"), "a secret in a manifest"),
    "another token": (front(lambda e: e["valueFrom"]["secretKeyRef"].update(name="other")), "differs from the head's"),
    "stale bounds": (config(lambda c: c["server"].update(connections=64)), "JETHRO_FRONT_BOUNDS is not what server"),
    "bounds that are none": (lambda d: env_everywhere(d, "JETHRO_FRONT_BOUNDS", "{"), "JETHRO_FRONT_BOUNDS is not"),
    "socket of its own": (
        lambda d: env_everywhere(d, "RAY_SERVE_HAPROXY_SOCKET_PATH", "/tmp/s.sock"),
        "HAProxy's files must be in one folder",
    ),
    "folder on a claim": (
        lambda d: (
            pod(d)["volumes"][2].update({"emptyDir": None, "persistentVolumeClaim": {"claimName": "c"}})
            or pod(d)["volumes"][2].pop("emptyDir")
        ),
        "not below an emptyDir of this pod alone",
    ),
    "folder that is the mount": (
        lambda d: container(d)["volumeMounts"][2].update(mountPath="/run/jethro/front"),
        "not below an emptyDir of this pod alone",
    ),
    # the key of /metrics
    "metrics closed": (config(lambda c: c["server"].pop("metrics_key_env")), "server.metrics_key_env: missing"),
    "no metrics key": (lambda d: without_env(d, "JETHRO_METRICS_KEY"), "JETHRO_METRICS_KEY of server.metrics_key_env"),
    "scrape without a key": (
        lambda d: one(d, "ScrapeConfig").body["spec"].pop("authorization"),
        "/metrics needs the key of server.metrics_key_env",
    ),
    "scrape with a caller's key": (
        lambda d: (
            one(d, "ScrapeConfig")
            .body["spec"]["authorization"]
            .update(credentials={"name": "jethro-keys", "key": "default"})
        ),
        "/metrics needs the key of server.metrics_key_env",
    ),
    "ray stop": (
        lambda d: container(d).update(lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "ray stop"]}}}),
        "cuts answers short",
    ),
    "gpu request": (
        lambda d: container(d)["resources"]["limits"].pop("nvidia.com/gpu"),
        "nvidia.com/gpu without a limit",
    ),
    "memory": (lambda d: container(d)["resources"]["requests"].update(memory="1Gi"), "must be equal"),
    "root": (lambda d: pod(d).pop("securityContext"), "runAsNonRoot"),
    "restart": (lambda d: pod(d).update(restartPolicy="Always"), "restartPolicy Always"),
    "other environment": (lambda d: env_value(d, "RAY_SERVE_ENABLE_HA_PROXY", "0"), "differs from the head's"),
    "small head": (
        lambda d: cluster(d)["headGroupSpec"]["template"]["spec"]["containers"][0].update(
            resources={"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
        ),
        "out of memory below 5Gi",
    ),
    # secrets
    "missing secret": (lambda d: without_env(d, "JETHRO_KEY"), "JETHRO_KEY of server.keys (default) is not given"),
    "written secret": (lambda d: env_value(d, "HF_TOKEN", "abc"), "a secret in a manifest"),
    "secret object": (
        lambda d: d.append(Document("x", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})),
        "Secrets are made in the cluster",
    ),
    "open": (config(lambda c: c["server"].pop("keys")), "without keys is refused"),
    "auth": (lambda d: cluster(d).update(authOptions={}), "authOptions.mode: must be token"),
    # KubeRay's own rules
    "name": (lambda d: service(d)["metadata"].update(name="j" * 48), "at most 47"),
    "upgrade": (lambda d: service(d)["spec"].update(upgradeStrategy={"type": "BlueGreen"}), "choose one of"),
    "steps": (
        lambda d: service(d)["spec"].update(
            upgradeStrategy={
                "type": "NewClusterWithIncrementalUpgrade",
                "clusterUpgradeOptions": {
                    "gatewayClassName": "istio",
                    "stepSizePercent": 50,
                    "maxSurgePercent": 20,
                    "intervalSeconds": 60,
                },
            }
        ),
        "stepSizePercent 50 <= maxSurgePercent 20",
    ),
    "deprecated": (lambda d: service(d)["spec"].update(serviceUnhealthySecondThreshold=900), "deprecated"),
    "head cpus": (lambda d: cluster(d)["headGroupSpec"].update(rayStartParams={}), "num-cpus"),
    "twice told": (lambda d: group(d).update(rayStartParams={"num-cpus": "3"}), "are refused together"),
    "same group": (lambda d: group(d).update(groupName="cpu"), "the name is given twice"),
    "alpha": (lambda d: cluster(d).update(tlsOptions={}), "gated off"),
    "target_capacity": (serve(lambda t: t.update(target_capacity=50)), "target_capacity"),
    "initial replicas": (
        application(
            lambda a: a.update(deployments=[{"name": "LargePool", "autoscaling_config": {"initial_replicas": 1}}])
        ),
        "initial_replicas",
    ),
    "accelerator": (lambda d: group(d)["resources"].pop("accelerator_type:L4"), "no pod of the worker groups"),
    "no cpu group": (lambda d: cluster(d)["workerGroupSpecs"].remove(group(d, "cpu")), "which it would keep alive"),
    # objects that refer to each other
    "budget": (lambda d: remove(d, "PodDisruptionBudget", "jethro-small"), "no PodDisruptionBudget selects its pods"),
    "budget in shares": (
        lambda d: one(d, "PodDisruptionBudget").body["spec"].update(minAvailable="50%"),
        "no scale subresource",
    ),
    "budget too high": (
        lambda d: one(d, "PodDisruptionBudget", "jethro-small").body["spec"].update(minAvailable=2),
        "nothing could be drained",
    ),
    "selector": (
        lambda d: one(d, "PodMonitor").body["spec"]["selector"].update(matchLabels={"a": "b"}),
        "its selector matches no pod",
    ),
    "policy's port": (
        lambda d: one(d, "NetworkPolicy", "jethro-callers").body["spec"]["ingress"][0]["ports"][0].update(port="http"),
        "no pod has a port http",
    ),
    "account": (lambda d: remove(d, "ServiceAccount", "jethro-worker"), "ServiceAccount jethro-worker is not among"),
    "config map": (lambda d: remove(d, "ConfigMap"), "ConfigMap jethro-config is not among"),
    "stale config map": (
        lambda d: one(d, "ConfigMap").body["data"].update({"jethro.yaml": "pools: {}"}),
        "is not the config that RayService jethro serves",
    ),
    "volume": (lambda d: pod(d)["volumes"].pop(), "no volume of that name"),
    "kind": (lambda d: one(d, "PodMonitor").body.update(kind="PodMonitr"), "no schema of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_planted_mistake_is_caught_by_name(mistake: str) -> None:
    found = documents("gpu")
    plant, said = MISTAKES[mistake]
    plant(found)
    mistakes = check_documents(found)
    assert any(said in m for m in mistakes), mistakes


def options(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The config's `kubernetes`, which the ConfigMap alone has."""

    def plant(found: list[Document]) -> None:
        data = one(found, "ConfigMap").body["data"]
        tree = yaml.safe_load(data["jethro.yaml"])
        change(tree["kubernetes"])
        data["jethro.yaml"] = yaml.safe_dump(tree)

    return plant


def everywhere(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The pod spec of every worker group."""
    return lambda found: [change(template["spec"]) for _, _, template in pods_of(service(found))[1:]]


def prepare(*words: str) -> Plant:
    """The init container's words from the option on that `words` begin with."""

    def change(spec: dict[str, Any]) -> None:
        command = spec["initContainers"][0]["command"]
        at = command.index(words[0])
        command[at : at + len(words)] = words

    return everywhere(change)


def served(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """The config in both places."""

    def plant(found: list[Document]) -> None:
        config(change)(found)
        data = one(found, "ConfigMap").body["data"]
        tree = yaml.safe_load(data["jethro.yaml"])
        change(tree)
        data["jethro.yaml"] = yaml.safe_dump(tree)

    return plant


def mounts(change: Callable[[list[dict[str, Any]]], Any]) -> Plant:
    return everywhere(lambda spec: change(spec["containers"][0]["volumeMounts"]))


def egress(found: list[Document], policy: str) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = one(found, "NetworkPolicy", policy).body["spec"]["egress"]
    return rules


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
        served(lambda c: c["cascade"].update(chain="/home/me/chain")),
        "cascade.chain: /home/me/chain is neither on a claim",
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


@pytest.mark.parametrize("mistake", OWN)
def test_each_mistake_in_what_is_ones_own_is_caught_by_one_sentence(mistake: str) -> None:
    found = documents("own")
    plant, said = OWN[mistake]
    plant(found)
    mistakes = check_documents(found)
    assert all(said in m for m in mistakes), mistakes
    assert len(mistakes) == TWO.get(mistake, 1), mistakes


SINGLE = (
    *("serve key", "deployment key", "application key", "config key", "pool bounds", "import path", "open"),
    *("initial replicas", "written token", "volume", "budget in shares", "account", "config map", "no front"),
    *("no token", "missing secret", "no metrics key"),
)


@pytest.mark.parametrize("mistake", SINGLE)
def test_no_second_sentence_misleads(mistake: str) -> None:
    found = documents("gpu")
    MISTAKES[mistake][0](found)
    assert len(check_documents(found)) == 1, check_documents(found)


def test_the_scrape_of_an_incremental_upgrade_is_of_the_gateway() -> None:
    found = documents("ha")
    targets = one(found, "ScrapeConfig").body["spec"]["staticConfigs"]
    assert targets == [{"targets": ["jethro-gateway-istio.default.svc:80"]}]
    targets[0]["targets"] = ["jethro-serve-svc.default.svc:8000"]
    (said,) = check_documents(found)
    assert "at jethro-gateway-istio.default.svc:80" in said


def test_a_redis_password_in_the_manifest_and_the_old_way_are_refused() -> None:
    found = documents("ha")
    cluster(found)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}, externalStorageNamespace="y")
    cluster(found)["headGroupSpec"]["rayStartParams"]["redis-password"] = "x"
    told = "\n".join(check_documents(found))
    assert "redisPassword.value" in told and "externalStorageNamespace" in told and "refused together" in told


def test_a_key_given_twice_is_caught() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        parse("x.yaml", "kind: A\nkind: B\n")


def test_several_mistakes_are_told_at_once() -> None:
    found = documents("cpu")
    cluster(found)["rayVersion"] = "2.9.0"
    pod(found, "cpu")["terminationGracePeriodSeconds"] = 1
    assert len(check_documents(found)) == 2
