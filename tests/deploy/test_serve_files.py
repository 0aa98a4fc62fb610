"""The Serve config files in deploy/: Ray's schema, no misspelt key, and our own config tree."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema

from serve_app.config import Config
from serve_app.config.environment import SERVE_ENVIRONMENT, front_variables
from serve_app.deployments.scaling import SHARE_POLICY, SharePolicy
from serve_app.front.settings import BOUNDS, TOKEN
from serve_app.front.settings import load as load_front

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy").glob("serve-*.yaml"))


def serve_configs() -> list[Any]:
    return [pytest.param(yaml.safe_load(f.read_text()), id=f.name) for f in FILES]


@pytest.mark.parametrize("tree", serve_configs())
def test_keys_are_known_to_ray_and_to_us(tree: dict[str, Any]) -> None:
    # Ray's schema lets misspelt keys pass, so what it kept is compared with what was written
    kept = ServeDeploySchema.model_validate(tree).model_dump(exclude_unset=True)
    assert set(tree) <= set(kept)
    assert set(tree["http_options"]) <= set(kept["http_options"])
    (application,) = tree["applications"]
    assert set(application) == {"name", "route_prefix", "import_path", "autoscaling_policy", "args"}
    assert application["autoscaling_policy"] == {"policy_function": SHARE_POLICY}
    assert issubclass(import_attr(SHARE_POLICY), SharePolicy)
    assert application["import_path"] == "serve_app.deployments:build"
    assert set(application["args"]) <= {"config", "engine_factory"}
    config = application["args"]["config"]
    if isinstance(config, dict):
        validated = Config.model_validate(config)
        assert validated.server.host == tree["http_options"]["host"]
        assert not validated.server.keys or validated.server.metrics_key_env


def test_the_page_on_clusters_sets_what_the_front_needs() -> None:
    page = (ROOT / "deploy" / "cluster.md").read_text()
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    where = {"HOME": "/h", "PATH": os.environ["PATH"]}
    command = script[: script.index("ray start")].replace("$(command -v jethro-front)", "/bin/jethro-front") + "\nenv"
    done = subprocess.run(["bash", "-euc", command], env=where, capture_output=True, text=True, check=True)
    env = dict(line.split("=", 1) for line in done.stdout.splitlines())
    expected = front_variables(Path("/bin/jethro-front"), Path("/h/.jethro-front"))
    assert {name: env.get(name) for name in expected} == expected
    assert {TOKEN, "RAY_SERVE_ENABLE_HA_PROXY"} < set(env)
    given = {n: v for n, v in env.items() if n in SERVE_ENVIRONMENT}
    assert given == {n: SERVE_ENVIRONMENT[n] for n in given}
    assert load_front({BOUNDS: env[BOUNDS]}) == load_front({})  # what the page shows are the defaults


def test_there_are_files_to_check() -> None:
    assert [f.name for f in FILES] == ["serve-gpu.yaml", "serve-lab.yaml"]
