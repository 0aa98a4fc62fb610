"""The words check finds each listed phrase and name, and leaves the field's own uses alone."""

import pytest

from tests import check_words
from tests.check_words import file_findings, main, prose_findings, python_findings


def found(text: str, **options: bool) -> list[str]:
    return [f.found for f in prose_findings(text, **options)]


@pytest.mark.parametrize(
    "text",
    [
        "the refusal is told",
        "it tells of drift",
        "what moved a score",
        "what moved the score",
        "moved by",
        "the message names the mend",
        "mended",
        "a replica at rest",
        "it rests for 5 s",
        "a second rest starts the next rest",
        "learning goes on",
        "it went on there",
        "nobody reads it",
        "Somebody asks",
        "whoever comes",
        "the file is put aside",
        "three in a row",
        "beside it",
        "the data at hand",
        "none is to be had",
        "if it cannot be had",
        "a lean client",
        "a full pool is passed over",
        'raises ConfigError if a chain cannot be."',
        "what the caller wants",
        "the wanted rate",
        "Empties the queue; gives what was in it",
        "Gives the version",
        "| route | gives |",
        "an error stops the start",
        "the start stops",
        "secrets by reference",
        "the score stands in a header",
        "it lies in the journal",
        "chunks as they come",
        "the list as it comes",
        "a fifth back",
        "names with commas between",
        "the model is asked again",
        "who asks",
        "what the caller asks for",
        "continues by its word",
    ],
)
def test_a_listed_phrase_is_found(text):
    assert found(text)


@pytest.mark.parametrize(
    "text",
    [
        "the rest of the body",
        "the rest",
        "a supermodel of three",
        "a REST API",
        "battles of the arena",
        "AutoMix's lift rests on a recorded confidence",
        "apart from the rest, aside from the head",
        "`what is 12 + 30?` gives 42",
        "the same seed gives the same router",
        "one caller gives up",
        "the file cannot be read",
        "values in a row of the table",
        "the byte goes on the wire",
        "a stand-in for Ray",
        "elsewhere",
        "two passes over the data",
        "the judge of a rating",
    ],
)
def test_proper_uses_are_left_alone(text):
    assert found(text, confidence=True) == []


def test_a_phrase_broken_over_lines_is_found_at_its_first_line():
    assert [(f.line, f.found) for f in prose_findings("one\nit is put in\na row, then\n")] == [(2, "in a row")]


def test_python_is_read_by_names_comments_and_strings():
    source = (
        '"""Docstring.\n\nThe model is asked."""\n'
        "rest = told_of(x)  # three in\n"
        "# a row\n"
        "class Exchange: ...\n"
        'message = f"put {name} aside"\n'
        'text = ("as it "\n        "comes in")\n'
        'data = {"asked": 1, "told": 2}\n'
        "first, *rest = nobodys.told\n"
    )
    got = {(f.line, f.found) for f in python_findings(source)}
    assert got == {
        (3, "asked"),
        (4, "told_of"),
        (4, "in a row"),
        (6, "Exchange"),
        (7, "aside"),
        (8, "as it comes"),
        (11, "told"),
    }


def test_names_are_split_at_underscores_and_capitals():
    got = [
        f.found
        for f in python_findings("NobodyAsked = check_told = TOLD = Ascent = wants_s = toldish = Asterisk = 1\n")
    ]
    assert got == ["NobodyAsked", "check_told", "TOLD", "Ascent", "wants_s"]


def test_judged_is_confidence_in_cascades_only():
    source = "# the answer is judged\njudgement_s = 1\n"
    assert [f.found for f in python_findings(source)] == []
    assert [f.found for f in python_findings(source, confidence=True)] == ["judgement_s", "judged"]


def test_home_made_module_names_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(check_words, "ROOT", tmp_path)
    module = tmp_path / "serve_app" / "cascade" / "hopeless.py"
    module.parent.mkdir(parents=True)
    module.write_text('"""Skips."""\n')
    assert [(f.line, f.found) for f in file_findings(module)] == [(1, "hopeless.py")]


def test_addresses_and_keys_are_not_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("See [it](https://example.com/told/beside) there: `asked` is a key, `is told` is not.\n")
    assert [f.found for f in file_findings(page)] == ["told"]


def test_the_command_prints_findings_and_counts(tmp_path, capsys):
    (tmp_path / "a.md").write_text("Fine.\nNobody comes.\n")
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "a.md:2: 'Nobody': write no replica" in out and "1  in all" in out
    (tmp_path / "a.md").write_text("Fine.\n")
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path / "missing")]) == 2
