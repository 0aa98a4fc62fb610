"""What the README tells people to type exists: targets, commands, options, modules, files, links."""

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

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PLAIN = {"source", "curl", "bash"}
"""Programs of the shell whose file arguments alone are checked."""


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [text for named, text in fences if named == language]


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:\S+=\S+ )?(?:make|(?:\.venv/bin/)?jethro|serve deploy) [^`]*)`", README)
    return [line for line in (*lines, *inline) if line.strip()]


def words_of(command: str) -> list[str]:
    """The command's words, without comment, leading variables and redirection."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words[: words.index(">")] if ">" in words else words


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_there_are_commands_to_check():
    assert len(commands()) > 15
    assert {words_of(c)[0] for c in commands()} <= {"make", "jethro", ".venv/bin/jethro", "serve", "python", *PLAIN}


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_of_the_readme_exists(command):
    program, *arguments = words_of(command)
    if program == "make":
        assert {a for a in arguments if "=" not in a} <= make_targets()
    elif program.endswith("jethro"):
        assert_jethro_takes(arguments)
    elif program == "python":
        assert (ROOT / arguments[1].replace(".", "/")).exists() or (
            ROOT / f"{arguments[1].replace('.', '/')}.py"
        ).exists()
    elif program == "serve":
        assert (ROOT / arguments[-1]).is_file()
    elif program == "bash":
        assert (ROOT / arguments[0]).is_file()


def assert_jethro_takes(arguments: list[str]) -> None:
    """The command exists and parses its arguments; it is not run."""
    command = get_command(app)
    if arguments in (["--help"], []):
        return
    context = command.make_context("jethro", list(arguments), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        context = command.make_context(name, list(arguments), parent=context)


def test_the_check_refuses_what_does_not_exist():
    for wrong in (["swerve"], ["config", "chek"], ["chat", "--no-such-option"]):
        with pytest.raises(Exception, match=r"(?i)no such"):
            assert_jethro_takes(wrong)


def test_every_benchmark_that_is_named_exists_and_every_one_is_named():
    named = set(re.findall(r"`benchmarks\.([a-z_]+)`", README))
    folders = {p.parent.name for p in (ROOT / "benchmarks").glob("*/__main__.py")}
    files = {
        p.stem
        for p in (ROOT / "benchmarks").glob("*.py")
        if all(part in p.read_text("utf-8") for part in ("ArgumentParser(", '__name__ == "__main__"'))
    }
    assert named == folders | files
    assert set(re.findall(r"-m benchmarks\.([a-z_]+)", (ROOT / "Makefile").read_text("utf-8"))) <= named


def test_links_and_pictures_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert "benchmarks/results/routing_quality.png" in targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_anchors_are_headings():
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", README, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_the_profiles_are_all_told():
    table = README[README.index("| profile |") :]
    assert re.findall(r"^\| `([a-z-]+)` \|", table.split("\n\n")[0], re.M) == ["lab", "lab-vllm", "gpu", "remote"]
    assert set(profile_names()) == {"lab", "lab-vllm", "gpu", "remote"}


def test_the_yaml_is_a_config():
    for text in blocks("yaml"):
        assert Config.model_validate(yaml.safe_load(text)).pools


def test_the_python_compiles():
    assert blocks("python")
    for text in blocks("python"):
        compile(text, "README.md", "exec")


def test_the_tree_names_what_there_is():
    tree = next(text for text in blocks("") if text.startswith("serve_app/"))
    inside, beside = tree.split("benchmarks/", 1)
    named = set(re.findall(r"^  ([a-z0-9]+)/", inside, re.M))
    there = {p.name for p in (ROOT / "serve_app").iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert named == there
    assert {"deploy/", "k8s/", "tests/"} <= set(beside.split())


def test_help_runs_as_the_readme_says():
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
