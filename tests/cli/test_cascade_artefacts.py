"""A fitted cascade is evaluated and served with what it was fitted with; what does not match is refused, with the fix.

Mistakes in a collection are found before a call is paid. See `journey` for the models and the endpoint.
"""

import json
import re
from pathlib import Path

import pytest

from serve_app.cascade.artefact import load_fitted
from serve_app.config import Config
from serve_app.errors import ConfigError
from tests.cli.journey import METRIC, Journey, interval, rows, serve, trained
from tests.cli.model_doubles import ModelDoubles, config, prompts, write_config, write_prompts


def test_a_chain_keeps_the_router_that_it_was_fitted_with(journey: Journey, caplog: pytest.LogCaptureFixture) -> None:
    """Another version of the router may serve meanwhile, and another router by default."""
    assert journey.fit("kept", "--target", "quality-drop=0.03").exit_code == 0
    version = journey.registry.current("mine")
    body = json.loads(Path(journey.at("kept"), "chain.json").read_text("utf-8"))
    signals = body["levels"][0]["signal"]["signals"]
    assert {s["router"] for s in signals if s["name"] == "prior"} == {f"mine@{version}"}
    assert body["data"] | {"prior": f"mine@{version}", "metric": METRIC} == body["data"]
    before = journey.evaluate("kept").stdout
    trained(journey, "mine", prompts(200, seed=9))
    newer = next(v for v in journey.registry.versions("mine") if v != version)
    journey.done("router", "use", f"mine@{newer}", "--registry", journey.at("routers"))
    try:
        assert journey.evaluate("kept").stdout == before
        recorded = [row["prior"] for row in rows(journey.at("measure.jsonl"))]
        items = rows(journey.at("measure-prompts.jsonl"))[:20]
        served = serve(journey.config(chain=journey.at("kept")), "jethro-cascade", items)
        assert served.priors == pytest.approx(recorded[:20], abs=1e-5)
        assert "whatever version serves" not in caplog.text
        again = journey.collect("newer.jsonl", "measure-prompts.jsonl")
        assert f"mine@{newer}" in again.stdout
        evaluated = journey.evaluate("kept", "newer.jsonl")
        assert evaluated.stdout == before and f"scored again by mine@{version}" in evaluated.stderr
    finally:
        journey.done("router", "use", f"mine@{version}", "--registry", journey.at("routers"))


def test_without_its_router_a_chain_is_not_served(journey: Journey) -> None:
    assert journey.fit("alone", "--target", "quality-drop=0.03").exit_code == 0
    tree = config(journey.doubles, journey.folder / "elsewhere" / "routers", cascade={"chain": journey.at("alone")})
    settings = Config.model_validate(tree)
    version = journey.registry.current("mine")
    with pytest.raises(ConfigError) as refused:
        serve(settings, "jethro-cascade", [])
    for part in ("cascade.chain: ", "alone/chain.json: levels[0].signal", f"mine@{version}", "routing.registry"):
        assert part in str(refused.value)
    refused_too = journey.run(
        "cascade", "evaluate", journey.at("alone"), "--data", journey.at("other.jsonl"), "--registry", "x"
    )
    assert refused_too.exit_code == 2


def test_answers_of_another_metric_or_model_measure_nothing(journey: Journey) -> None:
    assert journey.fit("strict", "--target", "quality-drop=0.03").exit_code == 0
    for change, says in (
        ({"metric": "exact"}, "data.metric is 'number', but these answers were graded by 'exact'"),
        ({"model": "other"}, "fitted on answers of 'double-small' as pool small, these are of 'other'"),
    ):
        changed = rows(journey.at("measure.jsonl"))
        for row in changed:
            if "model" in change:
                row["m"]["small"]["model"] = change["model"]
            else:
                row.update(change)
        write_prompts(journey.folder / "changed.jsonl", changed)
        done = journey.evaluate("strict", "changed.jsonl")
        assert done.exit_code == 2 and says in done.stderr and "strict/chain.json" in done.stderr


def recorded_confidences(journey: Journey, name: str) -> str:
    """The answers without tokens, as other programs record them: with their mean log-probability as `conf`."""
    found = rows(journey.at(f"{name}.jsonl"))
    for row in found:
        for answer in row["m"].values():
            answer["conf"] = answer.pop("tokens")[0][1]
    write_prompts(journey.folder / f"{name}-conf.jsonl", found)
    return f"{name}-conf.jsonl"


@pytest.mark.parametrize("signals", ["mean_logprob", "recorded"])
def test_a_chain_fitted_on_recorded_confidences_is_measured_on_them_and_served(journey: Journey, signals: str) -> None:
    learn, measure = recorded_confidences(journey, "learn"), recorded_confidences(journey, "measure")
    options = ("--target", "quality-drop=0.03", "--signals", signals, "--confidence-is", "mean_logprob")
    fitted = journey.fit("conf", *options, data=learn)
    assert fitted.exit_code == 0, fitted.stderr
    assert json.loads(Path(journey.at("conf"), "chain.json").read_text())["data"]["confidence_is"] == "mean_logprob"
    evaluated = journey.evaluate("conf", measure).stdout
    assert float(re.search(r"AUC ([0-9.]+)", evaluated)[1]) > 0.65  # type: ignore[index]
    assert journey.evaluate("conf").stdout == evaluated, "the tokens say the same"
    served = serve(
        journey.config(chain=journey.at("conf")), "jethro-cascade", rows(journey.at("measure-prompts.jsonl"))
    )
    low, high = interval(evaluated, r"\n ", 0.01)
    assert low <= served.share <= high and served.share < 0.75


def test_recorded_confidences_of_no_name_are_measured_but_not_served(journey: Journey) -> None:
    learn, measure = recorded_confidences(journey, "learn"), recorded_confidences(journey, "measure")
    fitted = journey.fit("raw", "--target", "quality-drop=0.03", "--signals", "recorded", data=learn)
    assert fitted.exit_code == 0, fitted.stderr
    assert "AUC 0.5" not in journey.evaluate("raw", measure).stdout
    with pytest.raises(ConfigError, match=r"raw/chain.json: level 0 was fitted on recorded confidences.*--signals"):
        serve(journey.config(chain=journey.at("raw")), "jethro-cascade", [])
    blind = journey.evaluate("raw")
    assert blind.exit_code == 2 and "signal recorded is undefined for every answer of small" in blind.stderr
    given = (
        "--data",
        journey.at(learn),
        "--budget",
        "50%",
        "--signals",
        "recorded",
        "--out",
        journey.at("raw-routing"),
    )
    journey.done("cascade", "fit-routing", *given)
    assert journey.evaluate("raw-routing", measure).exit_code == 0
    with pytest.raises(ConfigError, match=r"recorded confidences.*--signals"):
        serve(journey.config(routing=journey.at("raw-routing")), "jethro-cascade-route", [])
    lost = journey.fit("lost", "--target", "quality-drop=0.03", "--signals", "mean_logprob", data=learn)
    assert lost.exit_code == 2
    assert "--signals recorded" in lost.stderr and "--confidence-is mean_logprob" in lost.stderr


def test_a_prior_of_an_unnamed_router_is_not_guessed(journey: Journey) -> None:
    """Files of earlier versions have scores without a name: the fit once took them for those of the shipped router."""
    old = rows(journey.at("learn.jsonl"))
    for row in old:
        del row["prior_of"]
    write_prompts(journey.folder / "old.jsonl", old)
    refused = journey.fit("old", "--target", "quality-drop=0.03", data="old.jsonl")
    assert refused.exit_code == 2 and "--prior-of NAME" in refused.stderr
    named = journey.fit("old", "--target", "quality-drop=0.03", "--prior-of", "mine", data="old.jsonl")
    assert named.exit_code == 0, named.stderr
    assert journey.fit("new", "--target", "quality-drop=0.03").exit_code == 0
    old_chain, new_chain = (load_fitted(Path(journey.at(name))) for name in ("old", "new"))
    assert old_chain.chain.levels == new_chain.chain.levels
    mixed = rows(journey.at("learn.jsonl"))
    mixed[7]["prior_of"] = "complexity@complexity-12345678"
    write_prompts(journey.folder / "mixed.jsonl", mixed)
    refused = journey.fit("mixed", "--target", "quality-drop=0.03", data="mixed.jsonl")
    assert refused.exit_code == 2 and "as their prior: collect all rows with one --router" in refused.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--router", "mien"), "no router 'mien'"),
        (("--router", "mine@knn-00000000"), "router mine has no version 'knn-00000000'"),
        (("--router", "var/none"), "no router 'var/none'"),
        (("--metric", "exakt"), "metric 'exakt' is unknown"),
        (("--metric", "judge"), "judge"),
        (("--chain", "small,huge"), "the config has no pool 'huge'"),
        (("--chain", "small,small"), "pool 'small' is named twice"),
        (("--chain", "small"), "at least two pools"),
        (("--out", "answers.csv"), "ends in .jsonl or .parquet"),
        (("--out", "/proc/none/answers.jsonl"), "cannot be written"),
        (("--prompts", "bare.jsonl"), "'b1' has no reference (1 of 2 have none)"),
        (("--prompts", "seen.jsonl"), "are among those that router mine@"),
    ],
)
def test_mistakes_are_found_before_any_call_is_paid(
    journey: Journey, words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journey.folder)
    write_prompts(
        Path("bare.jsonl"), [{"id": "b0", "prompt": "What is 1 + 1?", "reference": "2"}, {"id": "b1", "prompt": "?"}]
    )
    write_prompts(Path("seen.jsonl"), prompts(3, seed=3))
    given = {"--prompts": "learn-prompts.jsonl", "--config": "my.yaml", "--chain": "small,large", "--metric": METRIC}
    given |= {"--out": "never.jsonl"} | dict(zip(words[::2], words[1::2], strict=True))
    calls = len(journey.doubles.calls)
    done = journey.run("cascade", "collect", *(word for pair in given.items() for word in pair))
    assert done.exit_code == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert len(journey.doubles.calls) == calls
    assert not list(journey.folder.glob("*never*"))


def test_pools_without_log_probabilities_need_other_evidence(journey: Journey) -> None:
    tree = config(ModelDoubles(mute=True, url=journey.doubles.url), journey.folder / "routers")
    mute = ("--config", write_config(journey.folder / "mute.yaml", tree))
    refused = journey.collect("mute.jsonl", "learn-prompts.jsonl", *mute)
    assert refused.exit_code == 2 and "pool small returns no log-probabilities" in refused.stderr
    out = ("--out", journey.at("several.jsonl"))
    several = journey.run("data", "collect", "--prompts", journey.at("learn-prompts.jsonl"), *mute, "-n", "3", *out)
    assert several.exit_code == 2 and "JSON lines hold one answer a query" in several.stderr


def test_routers_have_the_same_names_everywhere(journey: Journey) -> None:
    """NAME, NAME@VERSION and a folder are one router: collected with, served as the default, and measured."""
    version = journey.registry.current("mine")
    folder = journey.at(f"routers/mine/{version}")
    write_prompts(journey.folder / "few.jsonl", prompts(5, seed=4))
    for at, name in enumerate(("mine", f"mine@{version}", folder)):
        done = journey.collect(f"few-{at}.jsonl", "few.jsonl", "--router", name)
        assert done.exit_code == 0 and f"router mine@{version}" in done.stdout, done.stderr
    served = [
        serve(
            Config.model_validate(config(journey.doubles, journey.folder / "routers", routing={"router": name})),
            "jethro-route",
            prompts(10, seed=5),
        )
        for name in ("mine", f"mine@{version}", folder)
    ]
    assert served[0] == served[1] == served[2]
    assert journey.fit("none", "--target", "quality-drop=0.03", "--prior-of", "mine@x-1").exit_code == 2


def test_known_queries_are_left_out_if_asked(journey: Journey) -> None:
    write_prompts(
        journey.folder / "half.jsonl", [*prompts(3, seed=3), *({**r, "id": r["id"] + "n"} for r in prompts(4, seed=6))]
    )
    done = journey.collect("half-out.jsonl", "half.jsonl", "--skip-seen")
    assert done.exit_code == 0 and "left out 3 of 7 queries" in done.stderr
    assert len(rows(journey.at("half-out.jsonl"))) == 4
    free = journey.collect("half-free.jsonl", "half.jsonl", "--router", "")
    assert free.exit_code == 0 and "prior" not in rows(journey.at("half-free.jsonl"))[0]
