"""Alerts and dashboard: what they ask for is exported, and the alerts fire when they should, by Prometheus' tool."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.alert_series import FIRING, HEALTHY
from tests.deploy.metrics import ROOT, asked_for, exported

PROMTOOL = shutil.which("promtool")
NEEDS_PROMTOOL = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
GROUPS: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "serve_app" / "k8s" / "kustomize" / "base" / "rules.yaml").read_text()
)["spec"]["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_ask_for_what_is_exported(alert: str) -> None:
    names = asked_for(ALERTS[alert]["expr"])
    assert names and names <= exported()


def test_the_dashboard_asks_for_what_is_exported() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "jethro.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) == 8
    for expression in expressions:
        assert asked_for(expression) and asked_for(expression) <= exported(), expression


def test_a_metric_that_nobody_exports_would_be_seen() -> None:
    assert asked_for("sum(rate(jethro_requests[5m])) > ray_serve_nothing") == {"jethro_requests", "ray_serve_nothing"}
    assert not asked_for("jethro_requests") <= exported()


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
def test_each_alert_fires_when_it_should(alert: str, tmp_path: Path) -> None:
    """promtool wants every label of what fires, so the count is asked of the series ALERTS instead."""
    inputs, minute = FIRING[alert]
    question = {"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})', "eval_time": f"{minute}m"}
    question |= {"exp_samples": [{"labels": "{}", "value": 1}]}
    done = promtool(tmp_path, [{"interval": "1m", "input_series": series(inputs), "promql_expr_test": [question]}])
    assert done.returncode == 0, done.stdout + done.stderr


@NEEDS_PROMTOOL
def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    question = {"expr": "count(ALERTS)", "eval_time": "110m", "exp_samples": []}
    done = promtool(tmp_path, [{"interval": "1m", "input_series": series(HEALTHY), "promql_expr_test": [question]}])
    assert done.returncode == 0, done.stdout + done.stderr
