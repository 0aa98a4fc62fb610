"""`jethro cascade`: from recorded answers to a fitted chain, through the commands alone."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from serve_app.routing.registry import artefacts_dir
from tests.cascade.recordings import made_up
from tests.cli.conftest import Run


def saved(path: Path, n: int = 400, seed: int = 0, **more: object) -> str:
    """Made-up answers as a file."""
    recorded = made_up(n, seed)
    with path.open("w") as out:
        for i, judged in enumerate(recorded.evidence):
            models = {
                name: {
                    "ok": recorded.ok[i, j],
                    "cost": recorded.cost_usd[i, j],
                    "ans": judged[j].text,
                    "tokens": [[t.token, t.logprob, [list(pair) for pair in t.top]] for t in judged[j].logprobs],
                }
                for j, name in enumerate(recorded.models)
            }
            row = {"i": i, "split": recorded.splits[i], "prompt": recorded.prompts[i], "m": models, **more}
            out.write(json.dumps(row) + "\n")
    return str(path)


FIT = ("--target", "quality-drop=0.02", "--signals", "mean_logprob,brevity")


@pytest.mark.slow
def test_a_chain_is_fitted_shown_and_measured(run: Run, tmp_path: Path) -> None:
    learn, other = saved(tmp_path / "a.jsonl", 600), saved(tmp_path / "b.jsonl", seed=1)
    out = str(tmp_path / "chain")
    fitted = run("cascade", "fit", "--data", learn, "--chain", "small,large", "--out", out, *FIT)
    assert fitted.exit_code == 0, fitted.stderr
    assert "small: taken at" in fitted.stdout and "large: always taken" in fitted.stdout
    assert "cost-aware" in fitted.stderr and "held out" in fitted.stderr
    shown = run("cascade", "show", out)
    assert shown.exit_code == 0 and shown.stdout in fitted.stdout
    measured = run("cascade", "evaluate", out, "--data", other)
    assert measured.exit_code == 0 and "AUC" in measured.stdout and "the last level" in measured.stdout


def test_measuring_on_what_it_was_fitted_on_is_refused(run: Run, tmp_path: Path) -> None:
    learn, out = saved(tmp_path / "a.jsonl", 200), str(tmp_path / "chain")
    assert run("cascade", "fit", "--data", learn, "--out", out, *FIT, "--no-cost-aware").exit_code == 0
    refused = run("cascade", "evaluate", out, "--data", learn)
    assert refused.exit_code == 2 and "fitted on these" in refused.stderr
    assert run("cascade", "evaluate", out, "--data", learn, "--force").exit_code == 0


def test_one_signal_is_calibrated_by_the_blended_curve_and_for_a_cost_by_doubt_per_dollar(
    run: Run, tmp_path: Path
) -> None:
    learn, out = saved(tmp_path / "a.jsonl", 600), tmp_path / "chain"
    one = ("--data", learn, "--out", str(out), "--signals", "mean_logprob")
    told = run("cascade", "fit", *one, "--target", "cost=0.00006").stderr
    tried = [line.partition("(")[2].partition(")")[0] for line in told.splitlines()]
    assert tried == ["blended, cost-aware", "blended", "blended, cost-aware"]  # the first again, by kind of query
    assert "by length: small -> large" in told
    level = json.loads((out / "chain.json").read_text())["levels"][0]
    assert level["signal"]["name"] == "cost_aware" and level["signal"]["calibrator"]["kind"] == "isotonic"
    told = run("cascade", "fit", *one, "--target", "strong-share=0.4", "--calibrator", "auto").stderr.splitlines()
    assert [line.partition("(")[2].partition(")")[0] for line in told[:2]] == ["blended", "blended, cost-aware"]
    assert len(told) == 6 + 1


@pytest.mark.slow
def test_a_split_and_a_probe(run: Run, tmp_path: Path) -> None:
    learn, out = saved(tmp_path / "a.jsonl", 400), tmp_path / "chain"
    options = ("--split", "train", "--probe-tokens", "1", "--no-cost-aware", "--calibrator", "auto")
    done = run("cascade", "fit", "--data", learn, "--out", str(out), *FIT, *options)
    assert done.exit_code == 0, done.stderr
    body = json.loads((out / "chain.json").read_text())
    assert body["probe_tokens"] == 1 and body["data"]["queries"] == 200
    assert "first 1 tokens" in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--target", "speed=1"), "target 'speed=1': write"),
        (("--target", "cost=1e-9"), "cannot be met"),
        (("--signals", "hope"), "signal 'hope' is not known"),
        (("--signals", ","), "name at least one"),
        (("--chain", "small"), "at least two models"),
        (("--chain", "small,huge"), "no model 'huge'"),
        (("--split", "dev"), "no split 'dev'"),
        (("--calibrator", "magic"), "calibrator 'magic' is not known"),
        (("--signals", "agreement"), "signal agreement is undefined for every answer"),
    ],
)
def test_mistakes_end_with_one_sentence(run: Run, tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    learn = saved(tmp_path / "a.jsonl", 200)
    done = run("cascade", "fit", "--data", learn, "--out", str(tmp_path / "c"), *FIT, *options)
    assert done.exit_code == 2 and says in done.stderr and "Traceback" not in done.stderr


def test_no_data_and_no_chain(run: Run, tmp_path: Path) -> None:
    done = run("cascade", "fit", "--data", str(tmp_path / "x.jsonl"), "--out", str(tmp_path), *FIT)
    assert done.exit_code == 2 and "no such file" in done.stderr
    done = run("cascade", "show", str(tmp_path))
    assert done.exit_code == 2 and "jethro cascade fit" in done.stderr


def test_what_is_named_and_is_not_there(run: Run, tmp_path: Path) -> None:
    fit = ("cascade", "fit", "--data", saved(tmp_path / "a.jsonl", 20, split=""), "--out", str(tmp_path), *FIT)
    done = run(*fit, "--split", "measure")
    assert done.exit_code == 2 and "'measure'" in done.stderr
    done = run(*fit, "--confidence-is", "margn")
    assert done.exit_code == 2 and "--confidence-is margn" in done.stderr


def test_lab_answers_are_collected(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "lab.jsonl"
    done = run("cascade", "collect", "--lab", "40", "--half", "measure", "--chain", "tiny,small", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 40 and list(rows[0]["m"]) == ["tiny", "small"] and 0 <= rows[0]["prior"] <= 1
    assert "jethro cascade fit" not in done.stdout, "that half is there to measure on"
    again = run("cascade", "collect", "--lab", "40", "--out", str(out))
    assert again.exit_code == 2 and "exists already" in again.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give one of --prompts FILE and --lab N"),
        (("--lab", "5", "--prompts", "x.jsonl"), "give one of"),
        (("--lab", "5", "--temperature", "1"), "--lab answers in this process at temperature 0"),
        (("--prompts", "x.jsonl"), "--metric is missing"),
        (("--prompts", "x.jsonl", "--metric", "exact"), "x.jsonl: no such file"),
        (("--prompts", "x.jsonl", "--metric", "zzz"), "metric 'zzz' is unknown"),
        (
            ("--lab", "5", "--chain", "small,huge"),
            "the lab has no model 'huge'; there are large, letters,",
        ),
    ],
)
def test_collecting_says_what_is_missing(run: Run, tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = run("cascade", "collect", "--out", str(tmp_path / "o.jsonl"), *options)
    assert done.exit_code == 2 and says in done.stderr


def test_queries_that_the_router_learned_from_are_not_collected(run: Run, tmp_path: Path) -> None:
    """The shipped router, as if it had learned from few of its queries: to draw all of them again takes seconds."""
    copytree(artefacts_dir() / "complexity", router := tmp_path / "router")
    card = json.loads((router / "card.json").read_text())
    options = ("cascade", "collect", "--lab", "1", "--router", str(router), "--chain", "tiny,small")
    for n, code in ((10, 2), (0, 0)):
        (router / "card.json").write_text(json.dumps(card | {"data": card["data"] | {"n": n}}))
        done = run(*options, "--out", str(tmp_path / f"{n}.jsonl"))
        assert done.exit_code == code, done.stderr
        assert ("learned from all of these queries; give a larger number" in done.stderr) == (code == 2)


def test_automix_is_fitted_and_measured(run: Run, tmp_path: Path) -> None:
    learn, other, out = saved(tmp_path / "a.jsonl", 600), saved(tmp_path / "b.jsonl", seed=1), str(tmp_path / "mix")
    refused = run("cascade", "fit-automix", "--data", learn, "--target", "strong-share=0.3", "--out", out)
    assert refused.exit_code == 2 and "--verdicts 8" in refused.stderr
    unknown = run("cascade", "fit-automix", "--data", learn, "--target", "cost=1", "--out", out, "--signal", "mood")
    assert unknown.exit_code == 2 and "self_verification or agreement" in unknown.stderr
    for path in (learn, other):
        _with_verdicts(Path(path))
    for decider in ("threshold", "pomdp"):
        options = ("--target", "strong-share=0.3", "--decider", decider, "--out", out)
        fitted = run("cascade", "fit-automix", "--data", learn, *options)
        assert fitted.exit_code == 0, fitted.stderr
        assert "0.5000 and above, by self_verification" in fitted.stdout
    measured = run("cascade", "evaluate", out, "--data", other)
    assert measured.exit_code == 0 and "the last level" in measured.stdout, measured.stderr


def _with_verdicts(path: Path) -> None:
    """The small model doubts itself as its log-probability does."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        yes = round(8 * 2.718281828 ** row["m"]["small"]["tokens"][0][1])
        row["m"]["small"] |= {"verdicts": [1] * yes + [0] * (8 - yes), "extra_cost": 1e-7}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_figures_that_are_missing_are_told_of(run: Run, tmp_path: Path) -> None:
    fitted = run("cascade", "fit", "--data", saved(tmp_path / "a.jsonl", 200), "--out", str(tmp_path / "c"), *FIT)
    assert fitted.exit_code == 0, fitted.stderr
    path = tmp_path / "c" / "chain.json"
    body = json.loads(path.read_text())
    del body["expected"]["quality_drop_low"]
    path.write_text(json.dumps(body))
    done = run("cascade", "show", str(path.parent))
    assert done.exit_code == 2 and "expected has no quality_drop_low" in done.stderr
