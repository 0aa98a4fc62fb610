"""Mistakes planted one at a time in good manifests: the check catches each, and by its own name."""

import pytest

from serve_app.errors import ConfigError
from serve_app.k8s.check import check_documents
from serve_app.k8s.documents import Document, parse
from tests.k8s.manifests import NEEDS_KUSTOMIZE, documents, one
from tests.k8s.rules.plants import (
    Plant,
    application,
    cluster,
    config,
    container,
    env_everywhere,
    env_value,
    front,
    group,
    hook,
    pod,
    remove,
    renamed,
    serve,
    service,
    without_env,
)

pytestmark = NEEDS_KUSTOMIZE
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
