"""RouteLLM's BERT classifier: its three classes, whose battles count, and its score."""

import numpy as np
import pytest

from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.routing.base import silent
from serve_app.routing.kinds.fine_tuned.routers import BertRouter
from serve_app.types import Message, Query
from tests.routing.kinds.fine_tuned.test_hybrid import BY_HAND, dataset


def queries(*texts: str) -> tuple[Query, ...]:
    return tuple(Query((Message("user", text),)) for text in texts)


def test_classes_are_strong_wins_tie_and_weak_wins() -> None:
    _, labels = BertRouter().targets(BY_HAND, silent)
    # mean qualities: 0.5 and 1, 0 and 0.75, 0.5 and 0.75, 0.5 and 0.25
    assert labels.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert BertRouter(margin=0.25).targets(BY_HAND, silent)[1].tolist() == [[1, 0, 0], [1, 0, 0]] + [[0, 1, 0]] * 2


def test_battles_of_the_pair_count_whichever_stands_first() -> None:
    battles = Preferences(
        queries("a", "b", "c", "d", "e"),
        ("l", "s", "s", "l", "other"),
        ("s", "l", "l", "other", "s"),
        np.array([1.0, 1.0, 0.5, 1.0, 0.0]),
    )
    data = dataset([[0.0]], [[1.0]])
    object.__setattr__(data, "preferences", battles)
    lines: list[str] = []
    texts, labels = BertRouter().targets(data, lines.append)
    assert texts == ["q0", "a", "b", "c"]
    assert labels.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert lines == ["bert: 4 battles, 2 of other models left out; strong wins 50.0 %, ties 25.0 %"]


def test_no_battle_of_the_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="'l' and 's'"):
        BertRouter().fit(dataset([[np.nan]], [[1.0]]))


def test_the_score_is_what_a_tie_or_a_win_of_the_weak_leaves() -> None:
    data = dataset([[1.0], [0.0]] * 40, [[1.0], [1.0]] * 40)
    router = BertRouter(encoder="scratch-1x32", epochs=1).fit(data)
    assert router.classifier_ is not None
    probabilities = router.classifier_.probabilities([q.text for q in data.queries])
    assert probabilities.shape == (80, 3) and probabilities.sum(1) == pytest.approx(np.ones(80))
    assert router.score(data.queries) == pytest.approx(1 - probabilities[:, 1] - probabilities[:, 2])
