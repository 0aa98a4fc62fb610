"""`jethro route`, over HTTP and in this process."""

import json

from tests.cli.fake_endpoint import DECISION

QUESTION = "what is 40 + 2?"


def test_the_endpoints_decision_is_explained(run, endpoint):
    result = run("route", QUESTION, "--url", endpoint.url, JETHRO_API_KEY="k")
    assert result.exit_code == 0
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()[:4]] == [
        ["answers", "small (jlab-small)"],
        ["because", "win rate 0.031 < threshold 0.420"],
        ["strategy", "route"],
        ["router", "complexity"],
    ]
    assert "quality 0.97" in result.stdout
    assert "digits +0.40, length -1.25" in result.stdout
    assert endpoint.asked == [
        ("/v1/route", "Bearer k", {"model": "jethro", "messages": [{"role": "user", "content": QUESTION}]})
    ]


def test_json_is_the_decision_as_it_came(run, endpoint):
    assert json.loads(run("route", QUESTION, "--url", endpoint.url, "--json").stdout) == DECISION


def test_an_error_of_the_endpoint_is_one_sentence(run, endpoint):
    endpoint.refuse = (404, "no such model")
    result = run("route", QUESTION, "--url", endpoint.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {endpoint.url} answered 404: no such model\n"


def test_a_local_decision_needs_no_endpoint(run):
    for threshold, pool in (("0", "large"), ("1", "small")):
        arguments = ["--local", "--config", "remote", "--model", f"router-random-{threshold}", "--json"]
        decision = json.loads(run("route", QUESTION, *arguments, JETHRO__ROUTING__ROUTER="random").stdout)
        assert decision["pool"] == pool
        assert decision["model"] == f"{pool}-model"
        assert decision["threshold"] == float(threshold)


def test_the_default_router_decides_locally_and_says_what_moved_it(run):
    decision = json.loads(run("route", QUESTION, "--local", "--json").stdout)
    assert decision["router"] == "complexity"
    assert (decision["score"] >= decision["threshold"]) == (decision["pool"] == "large")
    assert decision["features"]


def test_a_local_decision_on_an_unknown_model_says_which_there_are(run):
    result = run("route", QUESTION, "--local", "--model", "gpt-5", JETHRO__ROUTING__ROUTER="random")
    assert result.exit_code == 2
    assert "jlab-small" in result.stderr
