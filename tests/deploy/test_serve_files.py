"""The Serve config files in deploy/: Ray's schema, no misspelt key, and our own config tree."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema

from serve_app.config import Config
from serve_app.deployments.scaling import SHARE_POLICY, SharePolicy

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


def test_there_are_files_to_check() -> None:
    assert [f.name for f in FILES] == ["serve-gpu.yaml", "serve-lab.yaml"]
