"""Alerts and dashboards: what they use is defined, and every alert fires and clears, by Prometheus' own tool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from serve_app.observability import definitions as d
from serve_app.observability.grafana.boards import all_panels, queries, read_boards
from tests.deploy.alert_series import FIRING, HEALTHY
from tests.deploy.metrics import mistakes, selectors

ROOT = Path(__file__).parents[2]

PROMTOOL = shutil.which("promtool")
NEEDS_PROMTOOL = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
GROUPS: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "serve_app" / "k8s" / "kustomize" / "base" / "rules.yaml").read_text()
)["spec"]["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}


BOARDS = read_boards()


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_use_what_is_defined(alert: str) -> None:
    assert list(mistakes(ALERTS[alert]["expr"])) == []


@pytest.mark.parametrize(("panel", "expression"), queries(BOARDS))
def test_dashboards_use_what_is_defined(panel: str, expression: str) -> None:
    assert list(mistakes(expression)) == []


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("sum(rate(jethro_requests[5m]))", "jethro_requests is not defined"),
        ("ray_serve_nothing > 0", "ray_serve_nothing is not defined"),
        ('sum(rate(jethro_requests_total{status=~"5.."}[5m]))', "status=~'5..' is no value of it"),
        ('rate(jethro_requests_total{code="failed"}[5m])', "code='failed' is no HTTP status"),
        ('rate(jethro_tokens_total{router="x"}[5m])', "jethro_tokens_total has no label router"),
        ("sum by (router) (rate(jethro_tokens_total[5m]))", "grouped by router, which no metric there has"),
        ('rate(jethro_decisions_total{reason="luck"}[5m])', "reason='luck' is no value of it"),
        ("vector(1)", "no metric of ours"),
    ],
)
def test_what_is_not_defined_would_be_found(expression: str, said: str) -> None:
    assert list(mistakes(expression)) == [said]


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {selector.metric for _, expression in queries(BOARDS) for selector in selectors(expression)}
    assert {m.name for m in d.definitions() if not shown & set(m.series)} == set()


def test_metrics_of_others_are_exported_by_them() -> None:
    """By Ray's source. KubeRay's are as its documentation names them, vLLM's as its pages do: neither is installed."""
    folder = Path(ray.__file__).parent
    files = ("dashboard/modules/reporter/reporter_agent.py", "serve/_private/deployment_state.py")
    sources = [(folder / file).read_text("utf-8") for file in files]
    made = {f"ray_{name}" for text in sources for name in re.findall(r'"([a-z_]+)",\n', text)}
    assert {m.name for m in d.FOREIGN if m.name.startswith("ray_")} <= made


def test_dashboards_are_whole() -> None:
    assert {board["uid"] for board in BOARDS} == {
        f"jethro-{name}" for name in ("overview", "routing", "pools", "cascade-learner", "kubernetes")
    }
    for board in BOARDS:
        (variable,) = board["templating"]["list"]
        assert (variable["name"], variable["type"], variable["current"]) == ("datasource", "datasource", {})
        assert board["tags"] == ["jethro"]
        ids = [panel["id"] for panel in all_panels(board)]
        assert len(ids) == len(set(ids))
        for panel in all_panels(board):
            if panel["type"] == "row":
                continue
            assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            place = panel["gridPos"]
            assert 0 <= place["x"] <= 24 - place["w"]
            for target in (panel, *panel["targets"]):
                assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_do_not_cover_each_other() -> None:
    for board in BOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in all_panels(board):
            place = panel["gridPos"]
            cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
            assert not cells & taken, f"{board['title']}: {panel['title']}"
            taken |= cells


def test_the_page_names_every_alert() -> None:
    page = (ROOT / "docs" / "dashboards.md").read_text("utf-8")
    assert set(re.findall(r"`(Jethro[A-Za-z]+)`", page)) == set(ALERTS)


def test_one_host_has_the_same_alerts_on_answers() -> None:
    assert yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"] == GROUPS[:1]


def series(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": v} for name, v in values.items()]


def promtool(tmp_path: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": GROUPS}))
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    assert PROMTOOL is not None
    command = [PROMTOOL, "test", "rules", str(tmp_path / "tests.yml")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_alert_has_a_case() -> None:
    assert set(FIRING) == set(ALERTS)


@NEEDS_PROMTOOL
@pytest.mark.parametrize("alert", FIRING)
def test_each_alert_fires_and_clears(alert: str, tmp_path: Path) -> None:
    """promtool wants every label of what fires, so that it is the count of the series ALERTS that is asked for."""
    inputs, fires, clears = FIRING[alert]
    count = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    firing = {"expr": count, "eval_time": f"{fires}m", "exp_samples": [{"labels": "{}", "value": 1}]}
    cleared = {"expr": f'count(ALERTS{{alertname="{alert}"}})', "eval_time": f"{clears}m", "exp_samples": []}
    tests = [{"interval": "1m", "input_series": series(inputs), "promql_expr_test": [firing, cleared]}]
    done = promtool(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", FIRING)
def test_the_series_of_the_cases_are_defined(alert: str) -> None:
    for name in FIRING[alert].series:
        assert name == "up" or list(mistakes(name)) == []


@NEEDS_PROMTOOL
def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    question = {"expr": "count(ALERTS)", "eval_time": "110m", "exp_samples": []}
    done = promtool(tmp_path, [{"interval": "1m", "input_series": series(HEALTHY), "promql_expr_test": [question]}])
    assert done.returncode == 0, done.stdout + done.stderr
