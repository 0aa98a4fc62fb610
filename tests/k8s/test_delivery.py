"""How folders that a config names reach pods: packed, on claims, in the image; and what is refused."""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.adapters.registry import AdapterRegistry
from serve_app.config import Config
from serve_app.config.adapters import AdaptersConfig
from serve_app.errors import ConfigError
from serve_app.k8s.delivery import ARTEFACTS_PATH, path_mistakes
from serve_app.k8s.extras import build_command, required_extras, uncovered
from serve_app.k8s.pack import pack
from serve_app.k8s.pods import worker_group, worker_groups
from serve_app.k8s.render import in_cluster
from serve_app.k8s.volumes import init_containers
from serve_app.routing.registry import artefacts_dir
from tests.lora import save_adapter
from tests.models import save_random_model

ARCHIVE = {"artefacts": {"url": "https://files.partner.test/a.tar.gz", "sha256": "0" * 64}}
VLLM = {"kind": "vllm", "path": "org/model"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own, with a registry that holds one router under two versions."""
    monkeypatch.chdir(tmp_path)
    for version in ("v1", "v2"):
        folder = tmp_path / "var" / "routers" / "mine" / version
        folder.mkdir(parents=True)
        for file in (artefacts_dir() / "mf").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "var" / "routers" / "mine" / "current").write_text("v2\n")
    (tmp_path / "var" / "routers" / "mine" / ".draft-x").mkdir()
    (tmp_path / "var" / "routers" / "mine" / ".draft-x" / "half.npz").write_text("x")
    (tmp_path / "var" / "chain").mkdir()
    (tmp_path / "var" / "chain" / "chain.json").write_text("{}")
    yield tmp_path


def config(engine: dict[str, Any] | None = None, **more: Any) -> Config:
    def pool(model: str) -> dict[str, Any]:
        return {"model": model, "engine": engine or {"kind": "openai", "urls": [f"https://{model}.partner.test/v1"]}}

    server = {"keys": [{"name": "default", "env": "JETHRO_KEY"}]}
    return Config.model_validate({"server": server, "pools": {"small": pool("a"), "large": pool("b")}, **more})


OWN = {"routing": {"router": "mine"}, "cascade": {"chain": "var/chain"}}


def test_registered_adapters_are_packed_or_on_the_state_claim(here: Path) -> None:
    model = save_random_model(here / "model")
    engine = {"kind": "transformers", "path": "lab:small", "adapters": {}}
    routing = {"registry": "none"}
    assert in_cluster(config(engine, routing=routing)).adapters.registry == "/var/lib/jethro/adapters"
    AdapterRegistry(AdaptersConfig()).add(save_adapter(here / "tone", model, name="tone"))
    with pytest.raises(ConfigError, match=r"adapters\.registry: var/adapters is a folder of this machine"):
        in_cluster(config(engine, routing=routing))
    packed = in_cluster(config(engine, routing=routing, kubernetes=ARCHIVE))
    assert packed.adapters.registry == f"{ARTEFACTS_PATH}/adapters"
    claim = in_cluster(config(engine, routing=routing, kubernetes={"state": {"claim": "jethro"}}))
    assert claim.adapters.registry == "/var/lib/jethro/adapters"
    without = in_cluster(config({**engine, "adapters": None}, routing=routing))
    assert without.adapters.registry == "var/adapters"
    _, found = pack(config(engine, routing=routing), here / "a.tar.gz")
    assert [named.key for named in found] == ["adapters.registry"]
    with tarfile.open(here / "a.tar.gz") as archive:
        names = {name.rpartition("/")[2] for name in archive.getnames()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "jethro_adapter.json", "current"}


def test_packed_folders_have_the_same_names_in_every_pod() -> None:
    inside = in_cluster(config(**OWN, kubernetes=ARCHIVE))
    assert (inside.routing.registry, inside.routing.router) == (f"{ARTEFACTS_PATH}/routers", "mine")
    assert inside.cascade.chain == f"{ARTEFACTS_PATH}/chain"
    assert inside.store.path == "/var/lib/jethro/jethro.sqlite3"
    # what is rendered once is left as it is
    assert in_cluster(inside) == inside


def test_the_folders_of_an_ensemble_are_packed_too() -> None:
    inside = in_cluster(config(ensemble={"plan": "p", "ranker": "r", "fuser": "f"}, kubernetes=ARCHIVE)).ensemble
    assert (inside.plan, inside.ranker) == (f"{ARTEFACTS_PATH}/ensemble-plan", f"{ARTEFACTS_PATH}/ensemble-ranker")
    assert inside.fuser == f"{ARTEFACTS_PATH}/ensemble-fuser"
    calls = [{"calls": [{"pool": "small"}, {"pool": "large"}]}]
    inside = in_cluster(config(ensemble={"rounds": calls, "fuser": "pool:large"}, kubernetes=ARCHIVE)).ensemble
    assert inside.fuser == "pool:large", "no folder"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"routing": {"router": "mine"}}, r"routing\.registry: var/routers is a folder of this machine.*mine"),
        (
            {"routing": {"router": "var/routers/mine/v1", "registry": "none"}},
            r"routing\.router: var/routers/mine/v1 is",
        ),
        (
            {"cascade": {"chain": "var/chain"}, "routing": {"registry": "none"}},
            r"cascade\.chain: var/chain is a folder",
        ),
        (
            {"cascade": {"streaming": {"chain": "/data/chain"}}, "routing": {"registry": "none"}},
            r"cascade\.streaming\.chain: /data/chain is a folder",
        ),
        ({"cascade": {"routing": "x/routing"}, "routing": {"registry": "none"}}, r"cascade\.routing: x/routing is"),
        ({"routing": {"registry": "none", "offered": ["theirs"]}}, r"routing\.offered \(theirs\): theirs"),
        (
            {"engine": VLLM | {"path": "/data/qwen"}, "routing": {"registry": "none"}},
            r"pools\.small\.engine\.path: /data/qwen is .*write /var/lib/jethro/models/qwen",
        ),
    ],
)
def test_a_folder_that_reaches_no_pod_is_refused_with_the_fix(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        in_cluster(config(**more))
    assert "kubernetes.image_paths" in str(error.value)


def test_a_reference_keeps_its_version_wherever_the_router_is() -> None:
    by_name = config(routing={"router": "mine@v1"}, kubernetes=ARCHIVE)
    assert in_cluster(by_name).routing.router == "mine@v1"
    assert required_extras(by_name) == ["encoders"]
    folder = config(routing={"router": "var/routers/mine/v1@v1", "registry": "none"}, kubernetes=ARCHIVE)
    inside = in_cluster(folder)
    assert inside.routing.router == f"{ARTEFACTS_PATH}/router@v1"
    assert in_cluster(inside) == inside
    assert required_extras(folder) == ["encoders"]


def test_a_chain_on_the_scores_of_a_folder_of_this_machine_is_refused(here: Path) -> None:
    signal = {"name": "combined", "parts": [{"name": "prior", "router": f"{here}/var/own@v7"}]}
    (here / "var" / "chain" / "chain.json").write_text(json.dumps({"levels": [{"signal": signal}, {}]}))
    with pytest.raises(ConfigError, match=rf"cascade\.chain: var/chain/chain\.json reads .* {here}/var/own, a folder"):
        in_cluster(config(**OWN, kubernetes=ARCHIVE))
    in_image = ARCHIVE | {"image_paths": [str(here)]}
    assert in_cluster(config(**OWN, kubernetes=in_image)).cascade.chain == f"{ARTEFACTS_PATH}/chain"


def test_a_folder_in_the_image_stays_where_it_is() -> None:
    more = {"cascade": {"chain": "/srv/own/chain"}, "routing": {"registry": "none"}}
    inside = in_cluster(config(VLLM | {"path": "/srv/own/qwen"}, **more, kubernetes={"image_paths": ["/srv/own/"]}))
    assert inside.cascade.chain == "/srv/own/chain"
    (prepare,) = init_containers(inside, [], "jethro:1")
    paths = [b for a, b in zip(prepare["command"], prepare["command"][1:], strict=False) if a == "--path"]
    assert paths == ["/srv/own/chain", "/srv/own/qwen"]


def test_the_init_container_is_a_command_that_runs(here: Path) -> None:
    more = {"cascade": {"chain": str(here / "var" / "chain")}, "routing": {"registry": "none"}}
    inside = in_cluster(config(**more, kubernetes={"image_paths": [str(here)]}))
    (prepare,) = init_containers(inside, [], "jethro:1")
    command = [sys.executable, *prepare["command"][1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    shutil.rmtree(here / "var" / "chain")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith(f"prepare: {here}/var/chain: not in this pod")


def test_a_claim_for_state_keeps_routers_and_has_a_log_for_each_pod() -> None:
    inside = in_cluster(config(routing={"router": "mine"}, kubernetes={"state": {"claim": "s"}}))
    assert inside.routing.registry == "/var/lib/jethro/routers"
    assert inside.store.path == "/var/lib/jethro/log/jethro.sqlite3"
    (group,) = worker_groups(inside)
    container = worker_group(group, inside)["template"]["spec"]["containers"][0]
    log = {"name": "state", "mountPath": "/var/lib/jethro/log", "subPathExpr": "decisions/$(JETHRO_POD)"}
    assert log in container["volumeMounts"]
    assert {"name": "JETHRO_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}} in container["env"]


def test_weights_that_are_there_already_are_mounted_read_only_and_nothing_is_downloaded() -> None:
    more = {"routing": {"registry": "none"}}
    inside = in_cluster(config(VLLM, **more, kubernetes={"weights": {"claim": "w", "read_only": True}}))
    spec = worker_group(worker_groups(inside)[0], inside)["template"]["spec"]
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "w", "readOnly": True}} in spec["volumes"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in spec["containers"][0]["env"]
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_archive_holds_what_is_named_without_drafts_and_is_the_same_every_time(here: Path) -> None:
    wanted = config(**OWN)
    first, found = pack(wanted, here / "a.tar.gz")
    (here / "var" / "chain" / "chain.json").touch()
    second, _ = pack(wanted, here / "b.tar.gz")
    assert first == second and [named.packed for named in found] == ["routers", "chain"]
    with tarfile.open(here / "a.tar.gz") as archive:
        names = archive.getnames()
    assert {"routers/mine/current", "routers/mine/v1/card.json", "chain/chain.json"} <= set(names)
    assert not [name for name in names if "draft" in name]


def test_what_is_packed_loads_in_a_pod(here: Path) -> None:
    from serve_app.routing.registry import Registry

    pack(config(**OWN), here / "a.tar.gz")
    with tarfile.open(here / "a.tar.gz") as archive:
        archive.extractall(here / "pod", filter="data")
    registry = Registry(here / "pod" / "routers")
    assert registry.current("mine") == "v2"
    assert registry.path("mine", "v2").is_dir()


def test_nothing_to_pack_and_what_is_not_there_are_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to pack"):
        pack(config(routing={"registry": "none"}), here / "a.tar.gz")
    with pytest.raises(ConfigError, match=r"cascade\.chain: var/none: no such folder"):
        pack(config(cascade={"chain": "var/none"}), here / "a.tar.gz")
    (here / "var" / "chain" / "out").symlink_to("/etc")
    with pytest.raises(ConfigError, match="links to outside"):
        pack(config(**OWN), here / "a.tar.gz")
    assert not (here / "a.tar.gz").exists()


@pytest.mark.parametrize(
    ("more", "extras"),
    [
        ({"routing": {"registry": "none"}}, []),
        ({"routing": {"registry": "none", "router": "mf"}}, ["encoders"]),
        ({"routing": {"registry": "none", "offered": ["mf"]}}, ["encoders"]),
        ({"routing": {"registry": "none", "router": "random"}}, []),
        ({"routing": {"router": "complexity", "offered": []}}, []),
        ({}, ["encoders"]),  # the registry's own router is offered
        ({"routing": {"registry": "none", "router": "var/routers/mine/v1"}}, ["encoders"]),
        ({"routing": {"registry": "none"}, "streams": {"enabled": True}}, ["encoders"]),
        ({"routing": {"registry": "none"}, "engine": {"kind": "transformers", "path": "lab:small"}}, ["transformers"]),
        ({"engine": VLLM}, ["encoders", "vllm"]),
        ({"routing": {"registry": "none"}, "kubernetes": {"extras": ["encoders"]}}, ["encoders"]),
    ],
)
def test_extras_follow_from_pools_routers_and_streams(more: dict[str, Any], extras: list[str]) -> None:
    assert required_extras(config(**more)) == extras


def test_the_image_is_built_with_them() -> None:
    assert build_command(config(VLLM), "r.test/jethro:1") == (
        'docker build -f deploy/Dockerfile.gpu --build-arg EXTRAS="encoders vllm" -t r.test/jethro:1 .'
    )
    assert "Dockerfile.cpu" in build_command(config(), "x:1")


def test_encoders_bring_transformers() -> None:
    assert uncovered(["transformers", "vllm"], ["encoders"]) == ["vllm"]
    assert uncovered(["encoders"], ["transformers"]) == ["encoders"]


def test_a_router_that_scores_in_the_scorer_gets_its_place(here: Path) -> None:
    card = here / "var" / "routers" / "mine" / "v2" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"kind": "causal_llm"}))
    inside = in_cluster(config(routing={"router": "mine"}, kubernetes=ARCHIVE))
    assert inside.scorer.replicas == 1
    assert in_cluster(config(routing={"registry": "none"})).scorer.replicas is None


def test_paths_are_looked_for_among_what_a_pod_has() -> None:
    served = config(
        routing={"registry": "/var/lib/jethro/routers", "router": "mine"},
        cascade={"chain": "/var/lib/jethro-artefacts/chain"},
        store={"path": "/var/lib/jethro/x.sqlite3"},
    )
    own = ["/var/lib/jethro"]
    said = list(path_mistakes("pod", served, [], own))
    assert len(said) == 2 and "cascade.chain" in said[0] and "is empty when the pod starts" in said[1]
    assert list(path_mistakes("pod", served, ["/var/lib/jethro-artefacts", "/var/lib/jethro/routers"], own)) == []
    assert "no folder of the pod alone" not in "".join(said)
    (said_of_log,) = path_mistakes("pod", served, ["/var/lib/jethro-artefacts", "/var/lib/jethro"], [])
    assert "two pods that write one SQLite file damage it" in said_of_log
