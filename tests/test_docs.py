"""README and docs: commands, options, files, links, anchors and configs exist; the reference equals the code."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config import profile_names
from serve_app.config.tree import Config
from serve_app.routing.registry import KINDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (ROOT / "README.md", *DOCS, ROOT / "k8s" / "README.md", ROOT / "deploy" / "cluster.md")
}
README = PAGES["README.md"]
SHELL = {"source", "curl", "bash"}
"""Programs of the shell whose file arguments alone are checked."""
FOREIGN = {"ray", "kubectl", "docker", "export", "kind"}
"""Programs of others, which these tests cannot run."""


def blocks(language: str, page: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)
    return [text for named, text in fences if named == language]


def fenced(page: str) -> list[str]:
    lines = "\n".join([*blocks("bash", page), *blocks("sh", page)]).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def inline(page: str) -> list[str]:
    """Commands in running text, which may leave their arguments out."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    programs = r"make |(?:\.venv/bin/)?jethro |serve deploy |serve run |python docs/|bash "
    return re.findall(rf"`((?:[A-Z_]+=\S+ )?(?:{programs})[^`]+)`", text)


COMMANDS = sorted(
    {(page, command, True) for page in PAGES for command in fenced(page)}
    | {(page, command, False) for page in PAGES for command in inline(page)}
)


def words_of(command: str) -> list[str]:
    """The command's words, without comment, leading variables and redirection."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words[: words.index(">")] if ">" in words else words


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 40
    programs = {words_of(command)[0] for _, command, _ in COMMANDS}
    assert programs <= {"make", "jethro", ".venv/bin/jethro", "serve", "python", *SHELL, *FOREIGN}


@pytest.mark.parametrize(("page", "command", "whole"), COMMANDS)
def test_a_command_of_the_docs_exists(page, command, whole):
    program, *arguments = words_of(command)
    if program == "make":
        assert {a for a in arguments if "=" not in a} <= make_targets()
    elif program.endswith("jethro"):
        assert_jethro_takes(arguments, whole)
    elif program == "python" and arguments[0] == "-m":
        module = ROOT / arguments[1].replace(".", "/")
        assert module.exists() or module.with_suffix(".py").exists()
    elif program in ("python", "bash"):
        assert (ROOT / arguments[0]).is_file()
    elif program == "serve" and arguments[0] != "status":
        written = f"> {arguments[-1]} " in PAGES[page]  # by a command before it
        assert written or (ROOT / arguments[-1]).is_file() or (ROOT / "deploy" / arguments[-1]).is_file()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("jethro config profiles", "lab-vllm"),
        ("jethro config show gpu", "kind: vllm"),
        ("jethro config check deploy/compose-config.yaml --file-only", "good"),
        ("JETHRO__SERVER__PORT=9000 jethro config show", "port: 9000"),
        ('jethro route --local "what is 40 + 2?"', "small"),
        ('jethro route --local "sort 52 17 88 6 34"', "large"),
        ("jethro lab sample", ""),
        ("jethro router list", "complexity"),
        ("jethro --help", "Start here"),
    ],
)
def test_quick_commands_run(command, shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    env = dict(word.split("=", 1) for word in words[: words.index("jethro")])
    done = CliRunner().invoke(app, words[words.index("jethro") + 1 :], env=env)
    assert done.exit_code == 0, done.output
    assert shown in done.output


def assert_jethro_takes(arguments: list[str], whole: bool = True) -> None:
    """The command exists and parses its arguments; it is not run. `whole`: required ones may not be missing."""
    command = get_command(app)
    if arguments in (["--help"], []):
        return
    context = command.make_context("jethro", list(arguments), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        if "--help" in arguments:
            return
        group = hasattr(command, "resolve_command")
        context = command.make_context(name, list(arguments), parent=context, resilient_parsing=not (whole or group))


def test_the_check_refuses_what_does_not_exist():
    for wrong in (["swerve"], ["config", "chek"], ["chat", "--no-such-option"]):
        with pytest.raises(Exception, match=r"(?i)no such"):
            assert_jethro_takes(wrong)


def anchors(page: str) -> set[str]:
    """Ids that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def links(page: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


@pytest.mark.parametrize("page", PAGES)
def test_links_pictures_and_anchors_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT).as_posix()), f"{page} links to {target}"


def test_the_front_page_is_short_and_leads_to_every_page():
    assert len(README.splitlines()) <= 200
    assert {f"docs/{path.name}" for path in DOCS} <= {target.partition("#")[0] for target in links("README.md")}
    assert "benchmarks/results/routing_quality.png" in links("README.md")


def test_every_kind_of_router_has_its_row():
    for page in ("README.md", "docs/train-a-router.md"):
        rows = "".join(line.split("|")[1] for line in PAGES[page].splitlines() if line.startswith("| `"))
        assert set(KINDS) <= set(re.findall(r"`(\w+)`", rows)), page


def test_every_benchmark_that_is_named_exists_and_every_one_is_named():
    named = set(re.findall(r"^\| `benchmarks\.([a-z_]+)`", PAGES["docs/benchmarks.md"], re.MULTILINE))
    folders = {p.parent.name for p in (ROOT / "benchmarks").glob("*/__main__.py")}
    files = {
        p.stem
        for p in (ROOT / "benchmarks").glob("*.py")
        if all(part in p.read_text("utf-8") for part in ("ArgumentParser(", '__name__ == "__main__"'))
    }
    assert named == folders | files
    assert set(re.findall(r"-m benchmarks\.([a-z_]+)", (ROOT / "Makefile").read_text("utf-8"))) <= named
    assert set(re.findall(r"-m benchmarks\.([a-z_]+)", "".join(PAGES.values()))) <= named


def test_every_result_is_linked():
    results = {p.name for p in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert results == {Path(target).name for target in links("docs/benchmarks.md") if target.endswith(".md")} & results


def test_the_profiles_are_all_named():
    table = PAGES["docs/configure.md"].split("| profile |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == set(profile_names())


def test_the_branches_of_the_config_are_all_named():
    table = PAGES["docs/configure.md"].split("| branch |")[1].split("\n\n")[0]
    named = {
        re.sub(r"\W.*", "", name)
        for name in re.findall(r"`([a-z_.<>]+)`", re.sub(r"\|[^|]*\|$", "|", table, flags=re.M))
    }
    assert named == set(Config.model_fields)


@pytest.mark.parametrize("page", PAGES)
def test_yaml_is_a_config_and_python_compiles(page):
    for text in blocks("yaml", page):
        assert Config.model_validate(yaml.safe_load(text)).pools
    for text in blocks("python", page):
        compile(text, page, "exec")


def test_the_tree_names_what_there_is():
    page = "docs/developing.md"
    tree = next(text for text in blocks("", page) if text.startswith("serve_app/"))
    inside, outside = tree.split("benchmarks/", 1)
    named = re.findall(r"^  ([a-z0-9]+)/", inside, re.M)
    assert set(named) == {p.name for p in (ROOT / "serve_app").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert {"deploy/", "k8s/", "docs/", "tests/"} <= set(outside.split())
    floors = importlib.import_module("tests.test_imports").FLOOR
    assert [floors[name] for name in named] == sorted(floors[name] for name in named), "from the ground up"


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_the_code_exist(page):
    for path in re.findall(r"`((?:serve_app|tests|benchmarks|deploy|k8s|docs)/[\w./-]+)`", PAGES[page]):
        known = (ROOT / path).exists() or path.startswith(("k8s/overlays/mine", "benchmarks/results"))
        assert known, f"{page} names {path}"


def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["reference-config.md", "reference-metrics.md"])
def test_the_reference_equals_the_code(name):
    made = reference().PAGES[name]()
    assert made == (ROOT / "docs" / name).read_text("utf-8"), "run python docs/reference.py"


def test_the_reference_names_every_key_and_its_bounds():
    page = PAGES["docs/reference-config.md"]
    assert "| `port` | integer ≥ 1, ≤ 65535 | `8000` |" in page
    assert "## `pools.<name>.engine (kind: vllm)`" in page and "## `server.keys[]`" in page
    metrics = PAGES["docs/reference-metrics.md"]
    assert "| `jethro_requests_total` | counter |" in metrics and "`ray_jethro_autoscaling_target`" in metrics


def test_help_runs():
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
