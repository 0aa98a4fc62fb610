"""What saved cascades and streams say once they are loaded; see `readings`."""

import json
from pathlib import Path
from typing import Any

from serve_app.cascade.artefact import load_fitted
from serve_app.cascade.routing.router import Answered, Prompt, load_routing
from serve_app.data.recorded import Recorded
from serve_app.learning.encoder import load_encoder
from serve_app.streams.base import EventBatch, ObservedEvent, OnlineCore, arrays_from_bytes, batch_to_json
from serve_app.streams.policy_sync import recovered
from serve_app.streams.registry import RegistryOptions, StreamRegistry
from serve_app.streams.spec import spec_from_json, spec_to_json
from tests.compat.readings import digest, named, plain

COINS = ((0.5, 0.9, 0.9), (0.01, 0.9, 0.9), (0.5, 0.05, 0.05), None)
"""Of a stream's walk: none of them low, one that audits, ones that explore, and no LLM to call."""


def chain_reading(folder: Path, recorded: Recorded) -> dict[str, Any]:
    """A fitted chain: its figures, and raw signal, probability and verdict of every judged answer."""
    fitted = load_fitted(folder)
    chain = fitted.chain
    found: dict[str, Any] = {
        "version": chain.version,
        "pools": [level.pool for level in chain.levels],
        "models": list(chain.models),
        "probe_tokens": chain.probe_tokens,
        "expected": plain(chain.expected),
        "target": fitted.target,
        "data": plain(fitted.data),
        "levels": [],
    }
    for level in chain.levels[:-1]:
        at = recorded.models.index(level.pool)
        assert level.signal is not None and level.calibrator is not None
        rows = []
        for judged in (row[at] for row in recorded.evidence[:40]):
            value = float(level.signal.value(judged))
            probability = level.calibrator.probability(value)
            rows.append([plain(value), plain(probability), probability >= level.threshold])
        needs = level.signal.needs
        required = [needs.logprobs, needs.top_logprobs, needs.samples, needs.verdicts, needs.prior]
        found["levels"].append({"threshold": plain(level.threshold), "needs": required, "rows": rows})
    return found


def routing_reading(folder: Path, recorded: Recorded) -> dict[str, Any]:
    """A fitted cascade router: its figures, and the advice before and after answers."""
    router = load_routing(folder)
    found: dict[str, Any] = {
        "version": router.version,
        "pools": list(router.pools),
        "models": list(router.models),
        "encoder": router.encoder,
        "expected": plain(router.expected),
        "data": plain(router.data),
        "advice": [],
    }
    for i in range(16):
        text = recorded.prompts[i]
        vector = None if router.encoder is None else load_encoder(router.encoder).embed([text])[0]
        prompt = Prompt(len(text), (i % 5) / 5, vector)
        answers = []
        for pool in router.pools:
            m = recorded.models.index(pool)
            judged, signal = recorded.evidence[i][m], router.signals[pool]
            value = recorded.confidence[i, m] if signal is None else signal.value(judged)
            answers.append(Answered(pool, float(value), judged.text, float(recorded.cost_usd[i, m])))
        found["advice"] += [_advice(router.after(prompt, answers[:n])) for n in range(len(answers) + 1)]
        found["advice"].append(_advice(router.start(prompt, without=router.pools[:1])))
    return found


def _advice(advice: Any) -> dict[str, Any]:
    return named(advice, "ask", "take", "quality", "cost_usd")


def stream_reading(folder: Path, later: list[bytes], texts: list[str]) -> dict[str, Any]:
    """Every stream of a folder: by its last checkpoint alone, as it is opened again, and once it has learned further.

    The folder is changed: give a copy. `later` are batches as a Gateway wrote them.
    """
    core = OnlineCore()
    found: dict[str, Any] = {"by checkpoint": {}, "opened": {}, "later": {}}
    for name, acting in sorted(recovered(folder, core).items()):
        episodes = [acting.policy.act(t, c) for t in texts for c in COINS]
        found["by checkpoint"][name] = {
            "uid": acting.uid,
            "owner": acting.owner,
            "spec": plain(spec_to_json(acting.spec)),
            "walks": _walks(name, episodes),
        }
    registry = StreamRegistry(RegistryOptions(folder), core)
    found["opened"] = {name: _stream(registry, name, texts) for name in sorted(registry.published)}
    for line in later:
        registry.report(line)
    found["later"] = {name: _stream(registry, name, texts) for name in sorted(registry.published)}
    registry.close()
    return found


def _stream(registry: StreamRegistry, name: str, texts: list[str]) -> dict[str, Any]:
    published = registry.published[name]
    assert published.error is None and published.policy is not None and published.spec is not None
    arrays = arrays_from_bytes(published.policy)
    policy = OnlineCore().policy(spec_from_json(published.spec), arrays)
    episodes = [policy.act(t, c) for t in texts for c in COINS]
    return {
        "tag": published.tag,
        "owner": published.owner,
        "spec": plain(published.spec),
        "figures": plain({k: v for k, v in published.figures.items() if k != "opened_s"}),
        "policy": {k: digest(arrays[k]) for k in sorted(arrays)},
        "walks": _walks(name, episodes),
    }


def _walks(name: str, episodes: list[Any]) -> Any:
    """As Gateways write them down."""
    line = batch_to_json(EventBatch("g", 1, name, "u", tuple(ObservedEvent(w) for w in episodes)))
    return plain([event["walk"] for event in json.loads(line)["events"]])
