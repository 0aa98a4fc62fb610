"""How long each part of a pod's stop may take, and that the parts fit into its grace period."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import Config
from serve_app.errors import ConfigError
from serve_app.k8s.pods import environment
from serve_app.k8s.render import in_cluster
from serve_app.k8s.stopping import (
    DRAIN,
    FRONT_FOLDER,
    PROGRAMS,
    front_drain_s,
    grace_s,
    hook_folder,
    hook_times,
    lifecycle,
    ray_drain_s,
    stop_mistakes,
)
from tests.deploy.images import DOCKERFILES, steps


def config(gateway: float, small: float, large: float) -> Config:
    def pool(model: str, drain: float) -> dict[str, Any]:
        return {"model": model, "engine": {"kind": "transformers", "path": "lab:small"}, "drain_s": drain}

    server = {"keys": [{"name": "default", "env": "JETHRO_KEY"}]}
    pools = {"small": pool("a", small), "large": pool("b", large)}
    return Config.model_validate({"server": server, "gateway": {"drain_s": gateway}, "pools": pools})


def test_the_defaults_take_a_hundred_seconds() -> None:
    found = config(20, 30, 30)
    assert (front_drain_s(found), ray_drain_s(found), grace_s(found)) == (30, 50, 100)


drains = st.floats(0.1, 3600)


@given(drains, drains, drains)
def test_the_parts_fit_one_after_the_other_however_long_the_drains(gateway: float, small: float, large: float) -> None:
    found = config(gateway, small, large)
    times = hook_times(lifecycle(found)["preStop"]["exec"]["command"])
    assert times is not None
    pause, front = times
    longest = max(gateway, small, large)
    assert pause >= 5 and front >= longest and ray_drain_s(found) > longest + 10 - 1e-9
    assert grace_s(found) >= pause + front + ray_drain_s(found) + 15
    env = [{"name": DRAIN, "value": str(ray_drain_s(found))}]
    container = {"lifecycle": lifecycle(found), "env": env}
    template = {"spec": {"containers": [container], "terminationGracePeriodSeconds": grace_s(found)}}
    assert stop_mistakes("pod", template) == []
    template["spec"]["terminationGracePeriodSeconds"] = pause + front + ray_drain_s(found)
    assert len(stop_mistakes("pod", template)) == 1


def test_the_hook_is_a_command_that_runs() -> None:
    command = lifecycle(config(20, 30, 30))["preStop"]["exec"]["command"]
    assert (hook_times(command), hook_folder(command)) == ((5, 30), FRONT_FOLDER)
    # no front was started here, so there is nothing to wait for
    done = subprocess.run([sys.executable, *command[1:-1], "0.1"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["sleep", "5"],
        ["python", "-m", "serve_app.front.control"],
        ["python", "-m", "serve_app.front.control", "/x", "30"],
        ["python", "-m", "serve_app.front.control", "/x", "30", "--before", "5"],
        ["python", "-m", "serve_app.front.control", "/x", "long", "--after", "5"],
    ],
)
def test_other_hooks_drain_nothing(command: list[str]) -> None:
    assert hook_times(command) is None


@pytest.mark.parametrize("name", DOCKERFILES)
def test_our_images_have_their_programs_there(name: str) -> None:
    env = " ".join(s.text for s in steps(name) if s.name == "ENV")
    assert f"PATH={PROGRAMS}:$PATH" in env
    assert any(s.name == "COPY" and s.words[-1] == PROGRAMS.rpartition("/")[0] for s in steps(name))


def test_what_takes_no_cpu_is_refused_since_the_head_has_no_keys() -> None:
    tree = config(20, 30, 30).model_dump(mode="json", exclude_unset=True)
    with pytest.raises(ConfigError, match=r"gateway\.num_cpus: 0 CPUs could be placed on the head"):
        in_cluster(Config.model_validate(tree | {"gateway": {"num_cpus": 0}}))


def test_every_secret_of_a_config_reaches_the_workers() -> None:
    tree = config(20, 30, 30).model_dump(mode="json", exclude_unset=True)
    engine = {"kind": "openai", "urls": ["http://x/v1"], "api_key_env": "UPSTREAM_KEY"}
    engine |= {"proxy": "http://proxy:3128", "proxy_auth_env": "PROXY_AUTH"}
    tree["pools"]["third"] = {"model": "c", "engine": engine}
    inside = in_cluster(Config.model_validate(tree))
    names = {e["name"] for e in environment(inside) if "valueFrom" in e}
    assert names == {*inside.secrets(), "JETHRO_FRONT_TOKEN"}
    assert {"PROXY_AUTH", "UPSTREAM_KEY", "JETHRO_METRICS_KEY"} < names
    assert {e["name"] for e in environment(inside, head=True) if "valueFrom" in e} == {"JETHRO_FRONT_TOKEN"}
