"""What saved artefacts say once they are loaded: scores, choices and parameters as JSON, every float to the last bit.

The same functions wrote `artefacts/expected.json`.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.data.dataset import Dataset
from serve_app.data.near_duplicates import load_fingerprints
from serve_app.data.preferences import Preferences
from serve_app.data.recorded import read as read_recorded
from serve_app.decision.threshold import Threshold
from serve_app.learning.encoder import load_encoder
from serve_app.routing.base import Router
from serve_app.routing.registry import KINDS, Registry, load_router
from serve_app.types import Message, Price, Query

ENCODER = "encoder"
"""A tiny encoder among the artefacts; its name is its path from there."""
PRICES = {"small": Price(0.1, 0.4), "medium": Price(0.5, 2.0), "large": Price(2.0, 8.0)}
_ESTIMATED = ("quality", "std", "prompt_tokens", "completion_tokens")
_CALIBRATED = (
    "scores",
    "weak_quality",
    "strong_quality",
    "weak_tokens",
    "strong_tokens",
    "weak_cost_usd",
    "strong_cost_usd",
)
_RECORDED = ("ok", "cost_usd", "latency_ms", "confidence", "tokens_in", "tokens_out", "extra_cost_usd")
_ANSWERED = ("model", "texts", "quality", "cost_usd", "prompt_tokens", "completion_tokens", "latency_ms")


def plain(value: Any) -> Any:
    """JSON-ready; floats as `float.hex`, large arrays as a hash of their bytes."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float | np.floating):
        return float(value).hex()
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, np.ndarray):
        return plain(value.tolist()) if value.size <= 16 else digest(value)
    if isinstance(value, Mapping):
        return {str(name): plain(v) for name, v in value.items()}
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    raise TypeError(f"{value!r} has no plain form")


def named(value: object, *names: str) -> dict[str, Any]:
    """Some attributes of a value."""
    return {name: plain(getattr(value, name)) for name in names}


def digest(array: np.ndarray) -> str:
    """Type, shape and a hash of the bytes."""
    content = blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
    return f"{array.dtype} {list(array.shape)} {content}"


def queries_in(file: Path) -> list[Query]:
    """The queries that are scored."""
    row = json.loads(file.read_text("utf-8"))
    return [Query(tuple(Message(role, content) for role, content in messages)) for messages in row]


def arithmetic() -> dict[str, Any]:
    """How this machine computes: where any of it differs, the last bits of scores do too."""
    import torch

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((48, 48)), rng.standard_normal((48, 48))
    wide = torch.from_numpy(np.concatenate([a, b]).astype(np.float32))
    with torch.inference_mode():
        deep = torch.softmax(torch.tanh(wide @ wide.T) @ wide, dim=1)
    text = "how this machine computes, read by an encoder"
    return {
        "numpy": digest(np.exp(-np.abs(a @ b)) + np.linalg.solve(a, b)),
        "torch": digest(deep.numpy()),
        "tiny encoder": digest(load_encoder(ENCODER).embed([text])),
        "minilm": digest(load_encoder().embed([text])),
    }


def loaded_router(kind: str, folder: Path) -> Router:
    """The bare router in a folder, by the class of its kind."""
    module, _, name = KINDS[kind].partition(":")
    found: Router = getattr(import_module(module), name).load(folder)
    return found


def router_reading(router: Router, queries: list[Query]) -> dict[str, Any]:
    """Scores, one query at a time (sums depend on the rest of a batch), explanations, and estimates if it has any."""
    found: dict[str, Any] = {
        "kind": router.name,
        "placement": router.placement,
        "params": plain(router.params),
        "scores": [plain(router.score([q])[0]) for q in queries],
        "explained": [plain(router.explain(q)) for q in queries[:4]],
    }
    if router.name == "estimator":
        found["estimates"] = [named(router.estimate([q]), "pools", *_ESTIMATED) for q in queries[:4]]
        found["costs"] = [plain(router.estimate([q]).cost_usd(PRICES)) for q in queries[:4]]
    if router.name == "best_route":
        found["good_enough"] = [plain(router.good_enough([q])) for q in queries[:4]]
        found["chosen"] = [str(router.choose([q], t, PRICES)[0]) for q in queries[:4] for t in (0.3, 0.6, 0.9)]
    return found


def parts_of(folder: Path) -> dict[str, Any]:
    """The content of every file of a saved router: arrays and JSON by value, all else by its bytes."""
    found: dict[str, Any] = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                found[name] = {k: digest(arrays[k]) for k in sorted(arrays)}
        elif file.suffix == ".json":
            found[name] = json.loads(file.read_text("utf-8"))
        else:
            found[name] = blake2b(file.read_bytes(), digest_size=8).hexdigest()
    return found


def registry_reading(folder: Path, queries: list[Query]) -> dict[str, Any]:
    """Names, versions, what serves, and every version loaded with its card, calibration and reference of inputs."""
    registry = Registry(folder)
    found: dict[str, Any] = {"default": registry.default(), "fingerprint": list(registry.fingerprint()), "routers": {}}
    for name in sorted(f.name for f in folder.iterdir() if f.is_dir()):
        versions = registry.versions(name)
        serving = registry.load(name)
        found["routers"][name] = {
            "versions": versions,
            "serving": plain(registry.serving(name)),
            "served": [serving.version, plain(serving.threshold), serving.name],
            "each": {v: _version_reading(registry, name, v, queries) for v in versions},
        }
    return found


def _version_reading(registry: Registry, name: str, version: str, queries: list[Query]) -> dict[str, Any]:
    registered = registry.load(name, version)
    by_path = load_router(str(registry.path(name, version)))
    calibration, inputs = registered.calibration, registered.inputs
    assert calibration is not None and by_path.version == version
    return {
        "threshold": plain(registered.threshold),
        "models": list(registered.models or ()),
        "card": plain(registered.card),
        "calibration": named(calibration, *_CALIBRATED),
        "shares": [plain(Threshold.for_share(calibration, share).value) for share in (0.2, 0.5)],
        "drop": plain(Threshold.for_drop(calibration, 0.05).value),
        "inputs": None if inputs is None else named(inputs, "size", "means", "sds", "words", "vector_mean"),
        "seen": plain(load_fingerprints(registry.path(name, version))),
        "scores": [plain(registered.router.score([q])[0]) for q in queries],
        "parts": parts_of(registry.path(name, version)),
    }


def data_reading(folder: Path) -> dict[str, Any]:
    """Recorded answers and data sets: every value of theirs."""
    found: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        if ".jsonl" in file.name:
            recorded = read_recorded(file)
            found[file.name] = {
                "digest": recorded.digest(),
                "models": list(recorded.models),
                "served": list(recorded.served),
                "prompts": blake2b(repr(recorded.prompts).encode(), digest_size=8).hexdigest(),
                "splits": sorted({s: recorded.splits.count(s) for s in recorded.splits}.items()),
                "arrays": {name: digest(getattr(recorded, name)) for name in _RECORDED},
                "judged": [_judged(judged) for judged in recorded.evidence[0]],
            }
        elif file.name == "dataset.parquet":
            dataset = Dataset.load(file)
            found[file.name] = {
                "digest": dataset.digest(),
                "ids": list(dataset.ids[:5]),
                "groups": list(dataset.groups[:5]),
                "about": plain(dataset.about),
                "references": list(dataset.references[:5]),
                "first": _messages(dataset.queries[:3]),
                "pools": {name: named(pool.take([0, 1, 2]), *_ANSWERED) for name, pool in dataset.pools.items()},
                "win_rate": digest(dataset.strong_win_rate()),
            }
        elif file.suffix == ".parquet":
            battles = Preferences.load(file)
            models = [battles.model_a, battles.model_b]
            found[file.name] = [_messages(battles.queries[:3]), models, plain(battles.outcome)]
    return json.loads(json.dumps(found))  # tuples as lists


def _judged(judged: Any) -> list[Any]:
    tokens = [[t.token, t.logprob, t.top] for t in judged.logprobs]
    return plain([judged.text, tokens, judged.finished, judged.samples, judged.verdicts, judged.prior])


def _messages(queries: Iterable[Query]) -> list[Any]:
    return [[m.to_openai() for m in q.messages] for q in queries]
