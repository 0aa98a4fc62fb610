""""""

from pathlib import Path

import numpy as np
import pytest

from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder
from serve_app.routing.kinds.knn.router import KnnRouter
from serve_app.types import Message, Query
from tests.data.samples import sums

DATA = sums(300, seed=1)


def ask(*texts: str) -> Query:
    roles = ("user", "assistant")
    return Query(tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)))


def test_the_score_is_the_weighted_mean_leaning_on_the_prior() -> None:
    router = KnnRouter(k=3, temperature=0.1, shrinkage=2.0).fit(DATA)
    query = ask("what is 12 + 5?")
    texts = list(dict.fromkeys(q.text for q in DATA.queries))
    wins = dict(zip((q.text for q in DATA.queries), DATA.strong_win_rate(), strict=True))
    encoder = load_encoder()
    vector = encoder.embed([query.text])[0]
    ranked = sorted(((float(v @ vector), t) for v, t in zip(encoder.embed(texts), texts, strict=True)), reverse=True)
    weights = [np.exp((s - ranked[0][0]) / 0.1) for s, _ in ranked[:3]]
    prior = (sum(wins[t] for t in texts) + 0.5) / (len(texts) + 1)
    mean = (sum(w * wins[t] for w, (_, t) in zip(weights, ranked[:3], strict=True)) + 2 * prior) / (sum(weights) + 2)
    assert router.score([query])[0] == pytest.approx(mean, abs=2e-3)  # stored vectors are halves


def test_an_explanation_adds_up_to_the_score() -> None:
    router = KnnRouter().fit(DATA)
    for query in (ask("what is 123 + 456?"), ask("add 3 and 4"), ask("hello")):
        score = router.score([query])[0]
        assert sum(router.explain(query).values()) == pytest.approx(np.log(score / (1 - score)), abs=1e-6)


def test_the_nearest_neighbours_move_the_score_most() -> None:
    query = DATA.queries[5]
    name = next(iter(router_terms(KnnRouter(keep_texts=True), query)))
    assert query.text in name and name.startswith("5: ")


def router_terms(router: KnnRouter, query: Query) -> dict[str, float]:
    terms = dict(router.fit(DATA).explain(query))
    return {name: value for name, value in terms.items() if name not in ("bias", "other neighbours")}


def test_texts_are_kept_only_if_asked_for(tmp_path: Path) -> None:
    text = DATA.queries[0].text
    for keep in (False, True):
        folder = tmp_path / str(keep)
        KnnRouter(k=4, temperature=0.1, shrinkage=1.0, keep_texts=keep).fit(DATA).save(folder)
        stored = b"".join(file.read_bytes() for file in folder.iterdir())
        assert (text.encode() in stored) == keep


def test_what_is_given_is_not_chosen() -> None:
    kernel = KnnRouter(k=7).fit(DATA).kernel_
    assert kernel is not None and kernel.k == 7 and kernel.temperature and kernel.shrinkage


@pytest.mark.parametrize("bad", [{"k": 0}, {"temperature": 0.0}, {"shrinkage": -1.0}, {"shrinkage": float("nan")}])
def test_impossible_parameters_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        KnnRouter(**bad).fit(DATA)  # type: ignore[arg-type]


def test_equal_texts_are_one_neighbour() -> None:
    distinct = {q.text for q in DATA.queries}
    assert len(distinct) < len(DATA)
    assert len(KnnRouter(k=4, temperature=0.1, shrinkage=1.0).fit(DATA).outcomes_) == len(distinct)


def test_a_follow_up_is_scored_with_its_conversation() -> None:
    router = KnnRouter().fit(DATA)
    follow = "and now the same with 345 + 678?"
    alone, after = router.score([ask(follow), ask("tell me a story of a fox", "A fox lived in a wood.", follow)])
    assert alone != after


def test_a_system_prompt_does_not_drown_the_question() -> None:
    router = KnnRouter().fit(DATA)
    system = Message("system", "You are a careful assistant. Answer briefly and say when you do not know. " * 40)
    easy, hard = (Query((system, Message("user", t))) for t in ("what is 3 + 4?", "what is 345 + 678?"))
    scores = router.score([easy, hard])
    assert scores[1] > scores[0]


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    KnnRouter(k=4, temperature=0.1, shrinkage=1.0).fit(DATA).save(tmp_path)
    path = tmp_path / "router.json"
    path.write_text(path.read_text().replace(load_encoder().digest, "0" * 16))
    with pytest.raises(ConfigError, match=r"router\.json: .*'minilm' .*0000"):
        KnnRouter.load(tmp_path)
