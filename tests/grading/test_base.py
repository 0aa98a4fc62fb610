""""""

import threading

import numpy as np
import pytest

from serve_app.errors import ConfigError, DataError
from serve_app.grading import METRICS, get_metric
from tests.grading.rows import dataset

WITH_REFERENCE = ["exact", "number", "choice", "rouge_l", "token_f1"]


@pytest.mark.parametrize("name", WITH_REFERENCE)
async def test_every_answer_gets_its_quality(name):
    before = dataset({"small": [["A 1", "no"], ["B 2", "B 2"]], "large": [["A 1", "A 1"], ["", "B 2"]]}, ["A 1", "B 2"])
    metric = get_metric(name)
    after = await metric.score(before)
    assert after.weak.quality.tolist() == [[1, 0], [1, 1]]
    assert after.strong.quality.tolist() == [[1, 1], [0, 1]]
    assert (after.about["metric"], after.about["quality_range"], after.about["source"]) == (name, [0, 1], "test")
    assert after.ids == before.ids and after.weak.texts == before.weak.texts
    assert np.isnan(before.weak.quality).all(), "the dataset given is left as it was"


@pytest.mark.parametrize("name", [*WITH_REFERENCE, "lab"])
@pytest.mark.parametrize(("references", "missing"), [((), "r0"), (("A 1", None), "r1")])
async def test_a_row_without_reference_is_named(name, references, missing):
    rows = dataset({"small": [["A 1"], ["A 1"]]}, references, groups=["add-1", "add-1"])
    with pytest.raises(DataError, match=f"'{missing}' .*reference"):
        await get_metric(name).score(rows)


@pytest.mark.parametrize(
    ("name", "reference"), [("number", "none"), ("choice", "none"), ("rouge_l", "?!"), ("token_f1", "дом")]
)
async def test_a_reference_that_cannot_be_compared_with_is_named(name, reference):
    with pytest.raises(DataError, match=r"'r1': .*reference"):
        await get_metric(name).score(dataset({"small": [["A 1"], ["A 1"]]}, ["A 1", reference]))


async def test_what_cannot_be_read_is_counted_and_told():
    lines = []
    rows = dataset({"small": [["12", "no idea"]], "large": [["12", "12"]]}, ["12"])
    after = await get_metric("number").score(rows, lines.append)
    assert after.about["metric_told"] == {"unread": {"small": 1, "large": 0}}
    assert lines == ["number: nothing could be read from 1 of small; graded as wrong"]
    assert after.weak.quality.tolist() == [[1, 0]]
    again = await get_metric("exact").score(after)
    assert again.about["metric_told"] == {}, "what an earlier metric told is not this one's"


async def test_progress_is_told_and_the_loop_is_left_free():
    threads = set()
    rows = dataset({"small": [["1"]] * 2000}, ["1"] * 2000)
    lines = []
    await get_metric("number").score(rows, lambda line: (lines.append(line), threads.add(threading.get_ident())))
    assert lines == ["number: 1,000 of 2,000 queries scored", "number: 2,000 of 2,000 queries scored"]
    assert threading.get_ident() not in threads


async def test_no_rows_are_no_fault():
    after = await get_metric("exact").score(dataset({"small": [["1"]]}, ["1"]).take([]))
    assert after.weak.quality.shape == (0, 1)


def test_unknown_names_and_options_are_told():
    with pytest.raises(ConfigError, match=r"'bleu' .*exact, number"):
        get_metric("bleu")
    with pytest.raises(ConfigError, match="'tokens'"):
        get_metric("exact", tokens="words")


def test_all_that_is_listed_is_there():
    from importlib import import_module

    for name, where in METRICS.items():
        module, _, cls = where.partition(":")
        assert getattr(import_module(f"serve_app.grading.{module}"), cls).name == name
