"""`jethro k8s`: folders that check, streams for kubectl, mistakes in one line each with status 2."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from serve_app.k8s.documents import tool
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "k8s" / "overlays" / "cpu" / "jethro.yaml"
OWN = ROOT / "k8s" / "overlays" / "own" / "jethro.yaml"
NEEDS_KUSTOMIZE = pytest.mark.skipif(tool() is None, reason="neither kustomize nor kubectl is installed")


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering looks at routers in the working directory, where a checkout may have some."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of base and components, for a test to refer to."""
    return Path(shutil.copytree(ROOT / "serve_app" / "k8s" / "kustomize", tmp_path / "k8s"))


@NEEDS_KUSTOMIZE
def test_a_rendered_folder_checks_good(run: Run, tree: Path) -> None:
    out = tree / "overlays" / "mine"
    done = run("k8s", "render", "--config", str(CONFIG), "--out", str(out), "--tree", str(tree), "--add", "auth")
    assert done.exit_code == 0, done.output
    assert 'image: docker build -f deploy/Dockerfile.cpu --build-arg EXTRAS="transformers" -t' in done.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "application.yaml", "config.yaml", "disruption.yaml", "kustomization.yaml",
    ]  # fmt: skip
    done = run("k8s", "check", str(out))
    assert (done.exit_code, done.output) == (0, "14 objects: good\n")


@NEEDS_KUSTOMIZE
def test_without_a_folder_the_objects_are_printed_and_nothing_is_left_behind(run: Run, tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    done = run("k8s", "render", "--config", str(CONFIG), "--tree", str(tree), "--image", "r.example.com/jethro:1.2.3")
    assert done.exit_code == 0 and done.stdout.count("r.example.com/jethro:1.2.3") == 3
    assert sorted(tree.rglob("*")) == before
    (tree / "all.yaml").write_text(done.stdout)
    assert run("k8s", "check", str(tree / "all.yaml")).exit_code == 0


def test_mistakes_are_lines_with_status_2(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\nautomountToken: false\n")
    done = run("k8s", "check", str(file))
    assert done.exit_code == 2 and "automountToken" in done.output
    done = run("k8s", "check", str(tmp_path / "none.yaml"))
    assert done.exit_code == 2 and "no such file or folder" in done.output


@NEEDS_KUSTOMIZE
def test_everything_of_ones_own_is_rendered_from_the_config_alone(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "manifests"
    done = run("k8s", "render", "--config", str(OWN), "--overlay", "gpu", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert {"claims.yaml", "network.yaml", "base", "components"} < {p.name for p in out.iterdir()}
    text = (out / "kustomization.yaml").read_text()
    assert ".." not in text, "the folder stands alone"
    assert "note: the router is not on this machine" in done.stderr
    assert '--build-arg EXTRAS="encoders vllm"' in done.stderr
    assert (done := run("k8s", "check", str(out))).output == "21 objects: good\n", done.output


def test_an_archive_is_packed_and_what_to_write_is_printed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "var" / "chain").mkdir(parents=True)
    (tmp_path / "var" / "chain" / "chain.json").write_text("{}")
    tree = yaml.safe_load(CONFIG.read_text())
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tree | {"cascade": {"chain": "var/chain"}}))
    done = run("k8s", "pack", "--config", "my.yaml")
    digest = sha256((tmp_path / "jethro-artefacts.tar.gz").read_bytes()).hexdigest()
    assert done.exit_code == 0 and f"sha256: {digest}" in done.output
    assert "chain: var/chain (cascade.chain)" in done.output
    # a folder that reaches no pod is refused by name
    done = run(
        "k8s", "render", "--config", "my.yaml", "--tree", str(ROOT / "serve_app" / "k8s" / "kustomize"), "--out", "x"
    )
    assert done.exit_code == 2 and "cascade.chain: var/chain is a folder of this machine" in done.output
    assert not (tmp_path / "x").exists()


def test_a_config_is_no_manifest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jethro.yaml").write_text(CONFIG.read_text())
    done = run("k8s", "check", str(tmp_path))
    assert done.exit_code == 2 and "a config of Jethro, not a manifest: run `jethro k8s render" in done.output
    assert done.output.count("\n") == 1


def test_without_the_base_nothing_is_rendered(run: Run, tmp_path: Path) -> None:
    done = run("k8s", "render", "--config", str(CONFIG), "--tree", str(tmp_path), "--out", str(tmp_path / "o"))
    assert done.exit_code == 2 and "--tree" in done.output
    assert not (tmp_path / "o").exists()
