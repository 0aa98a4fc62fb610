import json
from pathlib import Path

import numpy as np
import pytest

import serve_app.cascade
from serve_app.cascade.artefact import FILE, load_chain, load_fitted, save_chain, version_of
from serve_app.cascade.base import Level
from serve_app.cascade.fitting.confidence import ConfidencePlan
from serve_app.cascade.fitting.fit import ChainPlan, fit_chain
from serve_app.cascade.signals.tokens import Brevity, MeanLogprob
from serve_app.decision.target import Target
from serve_app.errors import ConfigError
from tests.cascade.recordings import made_up


@pytest.fixture(scope="module")
def body(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("chain")
    plan = ChainPlan(
        ("small", "large"),
        Target.parse("strong-share=0.4"),
        ConfidencePlan((MeanLogprob(), Brevity()), cost_aware=True),
    )
    save_chain(fit_chain(made_up(), plan), folder)
    return (folder / FILE).read_text("utf-8")


def test_it_comes_back_and_tells_where_it_is_from(tmp_path, body):
    (tmp_path / FILE).write_text(body)
    fitted = load_fitted(tmp_path)
    assert fitted.target == "strong-share=0.4" and fitted.data["queries"] == 400
    assert fitted.chain.version == version_of(fitted.chain.levels, None)
    assert 0 <= fitted.chain.expected["share:small"] <= 1
    save_chain(fitted, tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_text() == body


def change(body: str, *path, to) -> str:
    found = json.loads(body)
    at = found
    for key in path[:-1]:
        at = at[key]
    if to is None:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return json.dumps(found)


@pytest.mark.parametrize(
    ("path", "to", "says"),
    [
        (("kind",), "router", "fitted cascade"),
        (("format",), 9, "format is 9, .*1"),
        (("extra",), 1, "extra"),
        (("levels",), None, "levels .*missing"),
        (("levels",), [], "levels .*list"),
        (("levels", 0, "threshold"), 0.123, "version .*changed"),
        (("levels", 0, "threshold"), -1, r"levels\[0\].threshold: .*-1"),
        (("levels", 0, "threshold"), "high", r"levels\[0\].threshold: .*'high'"),
        (("levels", 0, "signal"), None, r"levels\[0\]: .*signal"),
        (("levels", 0, "signal", "name"), "hope", r"levels\[0\].signal: .*'hope'"),
        (("levels", 0, "signal", "calibrator", "kind"), "x", r"levels\[0\].signal.calibrator: .*'x'"),
        (("levels", 0, "signal", "signal", "weights"), [1], "mean, scale and weight"),
        (("levels", 0, "calibrator", "slope"), "steep", r"levels\[0\].calibrator: .*read"),
        (("levels", 0, "pool"), "large", "twice"),
        (("levels", 0, "colour"), "red", "keys"),
        (("levels", 1, "threshold"), 0.5, r"levels\[1\]: .*last level"),
        (("probe_tokens",), 0, "probe_tokens"),
        (("probe_tokens",), True, "probe_tokens"),
        (("probe_tokens",), 10**30, "probe_tokens"),
        (("levels", 0, "threshold"), 10**400, r"levels\[0\].threshold: .*1000"),
        (("levels", 0, "signal", "name"), ["hope"], r"levels\[0\].signal: .*\['hope'\]"),
        (("levels", 0, "signal", "signal", "bias"), 10**400, r"levels\[0\].signal.signal: combined"),
        (("levels", 0, "calibrator", "slope"), 10**400, r"levels\[0\].calibrator: .*read"),
        (("levels", 0, "calibrator", "kind"), {}, r"levels\[0\].calibrator: .*\{\}"),
        (("data",), "all", "data .*object"),
        (("expected",), {"quality": 10**400}, "expected .*object of numbers"),
        (("expected",), {"quality": "good"}, "expected .*object of numbers"),
    ],
)
def test_every_fault_is_named(tmp_path, body, path, to, says):
    (tmp_path / FILE).write_text(change(body, *path, to=to))
    with pytest.raises(ConfigError, match=says) as caught:
        load_chain(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"kind": "cascade", "format": 1, "levels": [3]}'])
def test_broken_files(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigError, match=r"chain\.json"):
        load_chain(tmp_path)


def test_no_folder_and_one_that_cannot_be_written(tmp_path, body):
    with pytest.raises(ConfigError, match="no such file"):
        load_chain(tmp_path / "nowhere")
    (tmp_path / FILE).write_text(body)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_chain(load_fitted(tmp_path), tmp_path / "file")


@pytest.mark.parametrize(("name", "probe"), [("whole", None), ("stream", 1)])
def test_the_labs_chains_ship_and_promise_what_they_must(name, probe):
    chain = load_chain(Path(next(iter(serve_app.cascade.__path__))) / "lab" / name)
    assert [level.pool for level in chain.levels] == ["small", "large"] and chain.probe_tokens == probe
    assert chain.expected["strong_share"] <= 0.7 and chain.expected["quality_drop_high"] <= 0.01
    assert chain.levels[0].signal.needs.prior == "complexity"


def test_versions_tell_chains_apart():
    level = Level("a", MeanLogprob(), load_calibrator(), 0.5)
    one, other = (level, Level("b")), (level, Level("c"))
    assert version_of(one, None) != version_of(other, None) != version_of(other, 2)
    assert version_of(one, None) == version_of(one, None)


def load_calibrator():
    from serve_app.cascade.signals.calibration import fit_calibrator

    return fit_calibrator("logistic", np.arange(40.0), np.tile([0.0, 1.0], 20))
