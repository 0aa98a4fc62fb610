"""`jethro k8s`: folders that check, streams for kubectl, mistakes in one line each with status 2."""

import shutil
from pathlib import Path

import pytest

from serve_app.k8s.documents import tool
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "k8s" / "overlays" / "cpu" / "jethro.yaml"
NEEDS_KUSTOMIZE = pytest.mark.skipif(tool() is None, reason="neither kustomize nor kubectl is installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of k8s/, for a test to write into."""
    return Path(shutil.copytree(ROOT / "k8s", tmp_path / "k8s"))


@NEEDS_KUSTOMIZE
def test_a_rendered_folder_checks_good(run: Run, tree: Path) -> None:
    out = tree / "overlays" / "mine"
    done = run("k8s", "render", "--config", str(CONFIG), "--out", str(out), "--tree", str(tree), "--add", "ingress")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == [
        "application.yaml", "config.yaml", "disruption.yaml", "kustomization.yaml",
    ]  # fmt: skip
    done = run("k8s", "check", str(out))
    assert (done.exit_code, done.output) == (0, "16 objects: good\n")


@NEEDS_KUSTOMIZE
def test_without_a_folder_the_objects_are_printed_and_nothing_is_left_behind(run: Run, tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    done = run("k8s", "render", "--config", str(CONFIG), "--tree", str(tree), "--image", "r.example.com/jethro:1.2.3")
    assert done.exit_code == 0 and done.stdout.count("r.example.com/jethro:1.2.3") == 2
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


def test_without_the_base_nothing_is_rendered(run: Run, tmp_path: Path) -> None:
    done = run("k8s", "render", "--config", str(CONFIG), "--tree", str(tmp_path), "--out", str(tmp_path / "o"))
    assert done.exit_code == 2 and "--tree" in done.output
    assert not (tmp_path / "o").exists()
