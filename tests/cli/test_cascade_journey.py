"""From two models to a served cascade, through the commands: what was evaluated is what is served, on the same queries.

The models are doubles behind one address (`model_doubles`); the endpoint's services are built in this process.
"""

import json
from pathlib import Path

import pytest

from tests.cli.journey import METRIC, Journey, interval, rows, serve

CHAINS = {
    "whole": ("jethro-cascade", False, ("--target", "quality-drop=0.03")),
    "stream": ("jethro-cascade-stream", True, ("--target", "quality-drop=0.03", "--probe-tokens", "1")),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_a_cascade_serves_what_was_evaluated(journey: Journey, kind: str) -> None:
    model, stream, options = CHAINS[kind]
    fitted = journey.fit(kind, *options)
    assert fitted.exit_code == 0, fitted.stderr
    evaluated = journey.evaluate(kind).stdout
    key = "chain" if kind == "whole" else "streaming"
    folder = journey.at(kind)
    settings = journey.config(**{key: folder if key == "chain" else {"chain": folder}})
    served = serve(settings, model, rows(journey.at("measure-prompts.jsonl")), stream)
    low, high = interval(evaluated, "quality ")
    assert low <= served.quality <= high
    low, high = interval(evaluated, r"\n ", 0.01)
    assert low <= served.share <= high
    assert 0.1 < served.share < 0.75, "neither everything nor nothing escalates"
    recorded = [row["prior"] for row in rows(journey.at("measure.jsonl"))]
    assert served.priors == pytest.approx(recorded[: len(served.priors)], abs=1e-5)


def test_cascade_routing_serves_what_was_evaluated(journey: Journey) -> None:
    given = ("--data", journey.at("learn.jsonl"), "--registry", journey.at("routers"), "--out", journey.at("routing"))
    journey.done("cascade", "fit-routing", *given, "--budget", "50%", "--signals", "logprobs,prior")
    evaluated = journey.evaluate("routing").stdout
    settings = journey.config(routing=journey.at("routing"))
    served = serve(settings, "jethro-cascade-route", rows(journey.at("measure-prompts.jsonl")))
    low, high = interval(evaluated, "quality ")
    assert low <= served.quality <= high
    low, high = interval(evaluated, r"answered by: .*large ", 0.01)
    assert low <= served.share <= high


def test_a_router_serves_what_was_evaluated(journey: Journey) -> None:
    given = ("--config", journey.at("my.yaml"), "-n", "1", "--temperature", "0", "--metric", METRIC)
    data = journey.at("measure.parquet")
    journey.done("data", "collect", "--prompts", journey.at("measure-prompts.jsonl"), *given, "--out", data)
    out = journey.at("report")
    journey.done("router", "evaluate", "mine", "--data", data, "--registry", journey.at("routers"), "--out", out)
    evaluated = json.loads(Path(out, "evaluation.json").read_text("utf-8"))["thresholds"][0]
    served = serve(journey.config(), "jethro-route", rows(journey.at("measure-prompts.jsonl")))
    for found, name in ((served.quality, "quality"), (served.share, "share")):
        assert evaluated[name]["low"] <= found <= evaluated[name]["high"]
        assert found == pytest.approx(evaluated[name]["value"], abs=1e-6)  # the answers are the same ones
