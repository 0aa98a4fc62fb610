"""Prompts from files and from the lab."""

from pathlib import Path

import pytest

from benchmarks.load.prompts import file_prompts, lab_prompts


def test_prompts_and_messages(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n\n{"messages": [{"role": "system", "content": "c"}]}\n')
    first, second, third = file_prompts(path, 3)
    assert (first.messages, first.answer) == (({"role": "user", "content": "a"},), "b")
    assert second.messages[0]["role"] == "system"
    assert third == first, "a short file is repeated"


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"prompt"}', "3"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"p\.jsonl:2"):
        file_prompts(path, 1)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="no prompts"):
        file_prompts(path, 1)


def test_lab_prompts_are_seeded_and_have_answers() -> None:
    found = lab_prompts(20, seed=1)
    assert found == lab_prompts(20, seed=1) != lab_prompts(20, seed=2)
    assert all(p.answer for p in found)
