"""The task classifier: what it learns, what it refuses, and that a saved one says the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from serve_app.config.orchestration import OrchestrationConfig, TaskConfig
from serve_app.errors import ConfigError, DataError
from serve_app.lab.sample import sample
from serve_app.orchestration.classifier import HashedTasks, TaskExample, fit_tasks, grams, read_examples
from serve_app.orchestration.tasks import TaskTable
from serve_app.types import Message, Query

KNOWN = ("sort", "reverse", "roman", "count", "calendar")


def examples(n: int, seed: int, split: str = "train") -> list[TaskExample]:
    items = sample(n, seed, split)  # type: ignore[arg-type]
    return [TaskExample(item.prompt, item.task if item.task in KNOWN else None) for item in items]


@pytest.fixture(scope="module")
def fitted() -> HashedTasks:
    return fit_tasks(examples(1500, 3))


def named(classifier: HashedTasks, text: str) -> str | None:
    found = classifier.probabilities(text)
    best = max(found, key=found.__getitem__)
    return best if found[best] >= 0.5 else None


def test_unseen_lab_queries_are_named(fitted: HashedTasks) -> None:
    unseen = examples(1000, 4, "unseen")
    right = np.mean([named(fitted, e.text) == e.task for e in unseen])
    assert right >= 0.97 and fitted.metrics["accuracy"] >= 0.95


def test_a_saved_classifier_says_the_same(fitted: HashedTasks, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again = HashedTasks.load(tmp_path)
    for example in examples(50, 9):
        expected = fitted.probabilities(example.text)
        assert again.probabilities(example.text) == pytest.approx(expected, abs=1e-4)
    assert again.version == fitted.version
    assert again.probabilities("") == pytest.approx(fitted.probabilities(""), abs=1e-6)


def test_grams_have_unit_length_and_numbers_count_by_their_digits() -> None:
    assert sum(w * w for w in grams("sort 1 2").values()) == pytest.approx(1.0)
    assert grams("sort 12 34") == grams("sort 56 78") != grams("sort 1 2")
    assert grams("") and not set(grams("")) & set(grams("a"))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([TaskExample(f"a {i}", "a") for i in range(20)], "all of one task"),
        ([*(TaskExample(f"a {i}", "a") for i in range(20)), TaskExample("b", "b")], "'b' has 1"),
        ([TaskExample("x", None)] * 9, "all of one task"),
    ],
)
def test_too_few_examples_are_refused(rows: list[TaskExample], says: str) -> None:
    with pytest.raises(DataError, match=says):
        fit_tasks(rows)


def test_bad_example_files_are_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    for line in ("no json", '{"text": "a"}', '{"text": 3, "task": "a"}', '{"text": "a", "task": 3}', "[1]"):
        path.write_text('{"text": "a", "task": null}\n\n' + line + "\n")
        with pytest.raises(DataError, match="line 3"):
            read_examples(path)
    with pytest.raises(DataError, match="no such file"):
        read_examples(tmp_path / "none.jsonl")


def test_a_broken_folder_is_refused(fitted: HashedTasks, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    body = json.loads((tmp_path / "tasks.json").read_text())
    (tmp_path / "tasks.json").write_text(json.dumps(body | {"bias": body["bias"][1:]}))
    with pytest.raises(ConfigError, match="do not agree"):
        HashedTasks.load(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"no zip")
    with pytest.raises(ConfigError, match=r"weights\.npz"):
        HashedTasks.load(tmp_path)


def test_the_classifier_counts_after_patterns_and_above_its_probability(fitted: HashedTasks) -> None:
    row = TaskConfig.model_validate({"tiers": [{"pool": "small"}]})
    other = TaskConfig.model_validate({"tiers": [{"pool": "large"}], "patterns": ["^reverse"]})
    table = TaskTable({"sort": row, "mine": other}, row, fitted)

    def of(text: str) -> str:
        return table.recognize(Query((Message("user", text),))).name

    assert (of("sort 9 3 5"), of("reverse stone"), of("nice weather")) == ("sort", "mine", "default")
    assert of("xii in arabic digits") == "default"  # a task of the classifier without a row


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"tasks": {"a": {"tiers": []}}}, "at least 1"),
        ({"tasks": {"a": {"tiers": [{"pool": "s"}], "patterns": ["("]}}}, "no regular expression"),
        ({"tasks": {"a": {"tiers": [{"pool": "s"}], "template": "x"}}}, r"no \{input\}"),
        ({"tasks": {"a": {"tiers": [{"pool": "s"}, {"pool": "s"}]}}}, "named twice"),
        ({"tasks": {"a": {"tiers": [{"pool": "s", "min_confidence": 0.5}]}}}, "no tier follows"),
        ({"tasks": {"a": {"tiers": [{"pool": "s"}], "tools": ["t"]}}}, "not among orchestration.tools"),
        ({"tools": {"t": {"function": "m:f", "description": "", "parameters": {}}}}, "object"),
        ({"tools": {"t": {"function": "m.f", "description": "", "parameters": {"type": "object"}}}}, "match pattern"),
    ],
)
def test_a_config_that_cannot_serve_is_refused(body: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OrchestrationConfig.model_validate(body)
