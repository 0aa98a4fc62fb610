"""The command as a whole: help that teaches, versions, mistakes."""

import subprocess
import sys
from importlib.metadata import version

import pytest

COMMANDS = [
    ["serve"],
    ["chat"],
    ["route"],
    ["config", "check"],
    ["config", "show"],
    ["config", "profiles"],
    ["lab", "build"],
    ["lab", "eval"],
    ["lab", "sample"],
    ["lab", "router"],
]


def test_the_first_help_names_every_command_and_how_to_start(run):
    text = run("--help").stdout
    for word in ("serve", "chat", "route", "config", "lab", "Start here:", 'jethro chat "what is 40 + 2?"'):
        assert word in text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_and_shows_examples(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert " ".join(lines[2 : lines.index("", 2)]).endswith(".")
    example = lines[lines.index("Examples:") + 1]
    assert "jethro " + " ".join(command) in example


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=lambda c: " ".join(c) or "jethro")
def test_help_in_a_pipe_is_plain_text(run, command):
    text = run(*command, "--help").stdout
    assert "\x1b" not in text
    assert not set(text) & set("╭╰│─")


def test_without_a_command_the_help_is_shown(run):
    for command in ([], ["config"], ["lab"]):
        assert "Commands:" in run(*command).output


def test_the_version_is_the_packages(run):
    assert run("--version").stdout == f"jethro {version('jethro')}\n"


def test_a_mistyped_command_is_suggested(run):
    result = run("srve")
    assert result.exit_code == 2
    assert "serve" in result.stderr


def test_the_module_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "serve_app.cli.main", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"jethro {version('jethro')}\n")
