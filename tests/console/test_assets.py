"""The console's files: complete, its own, and without anything that a strict policy forbids."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from serve_app.console.assets import HEADERS, PAGE, POLICY, Asset, assets

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "serve_app" / "console" / "static"
VENDORED = STATIC / "vendor"
FILES = sorted(p for p in STATIC.rglob("*") if p.is_file())
OWN = [p for p in FILES if VENDORED not in p.parents]
SCRIPTS = [p for p in OWN if p.suffix == ".js"]
IMPORT = re.compile(r'^import\b[^"\n]*"([^"]+)";$', re.MULTILINE)


def text(path: Path) -> str:
    return path.read_text("utf-8")


def test_every_file_but_the_licences_is_served():
    served = {PAGE: "index.html"} | {
        f"{PAGE}/{p.relative_to(STATIC).as_posix()}": p.name for p in FILES if p.name not in ("index.html", "LICENSE")
    }
    assert set(assets()) == set(served)
    assert len(served) > 25


def test_what_the_page_names_is_served():
    page = text(STATIC / "index.html")
    named = re.findall(r'(?:href|src)="(console/[^"#]+)"', page)
    assert len(named) >= 7
    assert {f"/{name}" for name in named} <= set(assets())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_every_import_leads_to_a_file_of_the_console(script):
    for name in IMPORT.findall(text(script)):
        assert name.startswith("."), name
        assert (script.parent / name).resolve().is_file(), name


def test_every_script_is_reached_from_the_page():
    page = text(STATIC / "index.html")
    seen = {STATIC / src.removeprefix("console/") for src in re.findall(r'<script[^>]* src="([^"]+)"', page)}
    waiting = list(seen)
    while waiting:
        script = waiting.pop()
        for name in IMPORT.findall(text(script)):
            found = (script.parent / name).resolve()
            if found not in seen:
                seen.add(found)
                waiting.append(found)
    assert seen == {*SCRIPTS, VENDORED / "uplot" / "uPlot.esm.js"}


def test_the_page_has_no_inline_script_or_style():
    page = text(STATIC / "index.html")
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert "<style" not in page
    assert re.findall(r"\s(?:style|on\w+)\s*=", page) == []


FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|"
    r"setAttribute\(\s*[\"'](?:style|on)|javascript:"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_make_text_only(script):
    assert FORBIDDEN.findall(text(script)) == []


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.name)
def test_nothing_is_fetched_from_elsewhere(path):
    found = [url for url in re.findall(r"(?:https?:)?//[\w.-]+", text(path)) if "://" in url]
    assert [url for url in found if url != "http://www.w3.org"] == []  # the name of SVG, which is not fetched
    assert "url(" not in text(path)


def test_the_policy_allows_no_inline_code():
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "require-trusted-types-for 'script'" in POLICY
    assert HEADERS["x-content-type-options"] == "nosniff"


def test_files_are_small_enough_for_a_phone_and_for_a_reader():
    assert sum(len(a.body) for a in assets().values()) < 400_000
    assert {p.name: n for p in OWN if (n := len(text(p).splitlines())) > 250} == {}


def test_the_vendored_library_has_its_licence_and_names_its_version():
    assert "MIT License" in text(VENDORED / "uplot" / "LICENSE")
    assert re.search(r"\(v1\.\d+\.\d+\)", text(VENDORED / "uplot" / "uPlot.esm.js"))


@pytest.mark.parametrize(
    ("header", "held"), [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("", False)]
)
def test_validators(header, held):
    assert Asset(b"", "text/css", '"a"').is_held_by(header) is held


def test_a_validator_is_of_the_bytes():
    etags = [a.etag for a in assets().values()]
    assert len(set(etags)) == len(etags)
    assert all(re.fullmatch(r'"[0-9a-f]{32}"', etag) for etag in etags)


@pytest.mark.slow
def test_the_files_are_in_the_wheel(tmp_path):
    """Built from a copy without the models, which are large and no matter here."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "serve_app" / "console", copy / "serve_app" / "console")
    (copy / "serve_app" / "__init__.py").touch()
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if n.startswith("serve_app/console/static/")}
    assert held == {f"serve_app/console/static/{p.relative_to(STATIC).as_posix()}" for p in FILES}


def test_the_package_finds_its_files():
    assert resources.files("serve_app.console").joinpath("static/index.html").is_file()
