"""Scored datasets are kept as they are, and feedback comes back from a running API as data."""

import httpx
import numpy as np
import pytest

from serve_app.api.app import build_app
from serve_app.data.dataset import Dataset
from serve_app.gateway.services import build_services
from serve_app.grading import get_metric
from serve_app.grading.feedback import read_feedback
from tests.api.fakes import FakePool, config
from tests.grading.fake_judge import FakeJudge, by_length
from tests.grading.rows import dataset
from tests.grading.seq2seq import save_t5


async def test_scored_datasets_are_read_as_they_were_written(tmp_path):
    rows = dataset({"small": [["cat", ""], ["dog", "the mat"]], "large": [["cat", "cat"], ["mat", "mat"]]}, ["cat"] * 2)
    metrics = [
        get_metric("token_f1"),
        get_metric("bartscore", model=save_t5(tmp_path / "t5")),
        get_metric("judge_pairwise", pool=FakeJudge(by_length)),
    ]
    for metric in metrics:
        scored = await metric.score(rows)
        scored.save(tmp_path / f"{metric.name}.parquet")
        again = Dataset.load(tmp_path / f"{metric.name}.parquet")
        assert again.about == scored.about and again.ids == scored.ids
        for name, pool in scored.pools.items():
            assert np.array_equal(again.pools[name].quality, pool.quality)
        assert len(again.battles()) == 2


async def ask(http: httpx.AsyncClient, model: str, text: str) -> str:
    """The decision's id of an answer by that model."""
    answer = await http.post(
        "/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": text}]}
    )
    return answer.headers["x-jethro-decision-id"]


@pytest.mark.parametrize("kept", [True, False])
async def test_feedback_over_http_becomes_data_to_learn_from(tmp_path, kept):
    path = tmp_path / "log.sqlite3"
    tree = config(
        store={"path": str(path), "flush_s": 0.02, "keep_prompts": kept},
        routing={"router": "random", "threshold": 0.5},
        log={"access": False},
    )
    services = build_services(tree, {"small": FakePool(), "large": FakePool("large", "lab-large")})
    await services.start()
    transport = httpx.ASGITransport(build_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://jethro") as http:
        small, large = [await ask(http, services.pools[name].model, "which?") for name in ("small", "large")]
        given = [
            {"decision_id": small, "score": 0.25},
            {"decision_id": large, "score": 1, "comment": "better"},
            {"decision_id": small, "preferred": "large"},
            {"decision_id": small, "preferred": "tie", "score": 0.5},
        ]
        for body in given:
            assert (await http.post("/v1/feedback", json=body)).status_code == 200
        shown = (await http.get(f"/v1/decisions/{small}")).json()["feedback"]
        assert [(f["score"], f["preferred"], f["against"]) for f in shown] == [
            (0.25, None, None), (None, "large", "large"), (0.5, "tie", "large")
        ]  # fmt: skip
    await services.aclose()
    found = read_feedback(path)
    if not kept:
        assert (found.scores, found.preferred, found.without_prompt) == ((), (), 4)
        return
    rows = found.dataset()
    assert [q.text for q in rows.queries] == ["which?"]
    assert rows.weak.quality.tolist() == [[0.5]] and rows.strong.quality.tolist() == [[1.0]]
    assert rows.strong.model == "lab-large" and rows.weak.prompt_tokens.tolist() == [[5.0]]
    assert found.preferences().outcome.tolist() == [0.5, 1.0]
